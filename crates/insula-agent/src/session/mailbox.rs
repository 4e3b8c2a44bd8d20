//! The newest Target on its way from the session to the node.
//!
//! A Target holds everything, so one that was not taken yet is replaced by the next, and neither
//! side waits for the other: a node that is busy with a slow disk must not miss its heartbeats.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::node::Received;

/// Clones are of the same box.
#[derive(Debug, Clone, Default)]
pub struct Mailbox {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    newest: Mutex<Option<Received>>,
    arrived: Notify,
}

impl Mailbox {
    /// What is older than what lies there already is from the past.
    pub fn put(&self, received: Received) {
        let mut newest = self.shared.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let held = newest.as_ref().map(|it| it.target.generation);
        if held <= Some(received.target.generation) {
            *newest = Some(received);
        }
        drop(newest);
        self.shared.arrived.notify_one();
    }

    /// Waits for one. For one reader.
    pub async fn take(&self) -> Received {
        loop {
            let newest = self.shared.newest.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(received) = newest {
                return received;
            }
            self.shared.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use insula_wire::node as wire;

    use super::*;

    fn target(generation: u64) -> Received {
        let target = wire::Target { generation, ..Default::default() };
        Received { target, epoch: None }
    }

    #[tokio::test]
    async fn only_the_newest_is_taken_and_the_past_does_not_replace_it() {
        let mailbox = Mailbox::default();
        for generation in [1, 3, 3, 2] {
            mailbox.put(target(generation));
        }
        assert_eq!(mailbox.take().await.target.generation, 3);
        let waiting = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { mailbox.take().await.target.generation }
        });
        tokio::task::yield_now().await;
        mailbox.put(target(2));
        assert_eq!(waiting.await.unwrap(), 2, "what counts is for the node to decide");
    }
}
