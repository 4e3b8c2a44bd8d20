//! Says a thing once it was so for some looks in a row, and takes it back once it was not for some
//! more. Pure.

#[derive(Debug)]
pub struct Steady {
    said_after: u32,
    unsaid_after: u32,
    /// Looks in a row that speak against what is said now.
    against: u32,
    said: Option<String>,
}

impl Steady {
    pub fn new(said_after: u32, unsaid_after: u32) -> Self {
        Self { said_after, unsaid_after, against: 0, said: None }
    }

    /// What this look found.
    pub fn see(&mut self, found: Option<String>) {
        if found == self.said {
            self.against = 0;
            return;
        }
        self.against += 1;
        let enough = if found.is_some() { self.said_after } else { self.unsaid_after };
        if self.against >= enough {
            self.against = 0;
            self.said = found;
        }
    }

    pub fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `b`: bad, `.`: good; what is said after each look.
    fn story(looks: &str) -> String {
        let mut steady = Steady::new(2, 3);
        let say = |look: char| {
            steady.see((look == 'b').then(|| "bad".to_owned()));
            if steady.said().is_some() { 'B' } else { '-' }
        };
        looks.chars().map(say).collect()
    }

    #[test]
    fn a_single_bad_look_says_nothing_and_a_single_good_one_takes_nothing_back() {
        assert_eq!(story("b.b.bb.b..b...b"), "-----BBBBBBBB--");
    }

    #[test]
    fn other_words_count_like_the_first_ones() {
        let mut steady = Steady::new(2, 3);
        for word in ["full", "full", "hangs"] {
            steady.see(Some(word.into()));
        }
        assert_eq!(steady.said(), Some("full"));
        steady.see(Some("hangs".into()));
        assert_eq!(steady.said(), Some("hangs"));
    }
}
