//! Colours, where there is somebody to see them.

/// Whether to paint. Text that comes from elsewhere is cleaned before it gets here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub const PLAIN: Self = Self(false);

    pub fn new(colours: bool) -> Self {
        Self(colours)
    }

    pub fn is_on(self) -> bool {
        self.0
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
    pub fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }
    pub fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }

    /// A state, in the colour of what it means; one that is not known here stays plain.
    pub fn state(self, state: &str) -> String {
        match state {
            "live" | "ready" | "done" | "running" | "connected" | "finished" => self.green(state),
            "failed" | "stuck" | "backing off" | "gone" | "lost" => self.red(state),
            "queued" | "building" | "starting" | "shifting" | "preparing" | "unready"
            | "stopping" | "unknown" | "draining" | "suspect" | "degraded" => self.yellow(state),
            "superseded" | "cancelled" | "absent" | "stopped" | "cordoned" | "drained" => {
                self.dim(state)
            }
            _ => state.to_owned(),
        }
    }
}
