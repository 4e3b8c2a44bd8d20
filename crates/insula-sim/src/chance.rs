//! Every choice of a simulation, from its seed: the same seed makes the same choices in the same
//! order. Not for keys, and not for ids of the control plane (see `insula_kit::random`).

use insula_model::ID_RANDOM_BYTES;

#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        let mut chance = Self(seed ^ 0x5851_f42d_4c95_7f2d);
        chance.draw();
        chance
    }

    /// SplitMix64.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`; nothing to choose from gives the first.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n.max(1)).unwrap_or(1);
        usize::try_from(self.draw() % n).unwrap_or(0)
    }

    /// Both ends included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.draw() % (to.saturating_sub(from) + 1)
    }

    pub fn percent(&mut self, chances: u64) -> bool {
        self.draw() % 100 < chances
    }

    pub fn permille(&mut self, chances: u64) -> bool {
        self.draw() % 1_000 < chances
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(from.len());
        from.get(at)
    }

    pub fn bytes(&mut self) -> [u8; ID_RANDOM_BYTES] {
        let (a, b) = (self.draw().to_le_bytes(), self.draw().to_le_bytes());
        let mut bytes = [0; ID_RANDOM_BYTES];
        bytes[..8].copy_from_slice(&a);
        bytes[8..].copy_from_slice(&b[..2]);
        bytes
    }
}
