//! An error with its sources, for one line of a log.

use std::error::Error;

use tonic::Status;

pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = words(error);
    let mut source = error.source();
    while let Some(error) = source {
        let next = words(error);
        // Wrappers that say nothing of their own would repeat what they wrap.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// One of them alone. A status says besides what the answer's headers were, for programs.
fn words(error: &(dyn Error + 'static)) -> String {
    let boxed = error.downcast_ref::<Box<Status>>().map(AsRef::as_ref);
    match error.downcast_ref::<Status>().or(boxed) {
        Some(status) if status.message().is_empty() => status.code().description().to_owned(),
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use insula_wire::node::EnrolRequest;
    use insula_wire::node::join_client::JoinClient;
    use tonic::metadata::MetadataMap;
    use tonic::{Code, Status};

    use super::chain;
    use crate::dial::Dial;
    use crate::renew::RenewError;
    use crate::uplink::Uplink;

    #[test]
    fn what_a_server_answers_is_told_in_its_words_and_without_the_headers() {
        let mut headers = MetadataMap::new();
        headers.insert("date", "today".parse().unwrap());
        let refused = Status::with_metadata(Code::Unauthenticated, "no such token", headers);
        assert_eq!(chain(&refused), "no such token");
        let silent = Status::new(Code::Unavailable, "");
        let failed = RenewError::Call(Box::new(silent));
        let words = "ask for the next certificate: The service is currently unavailable";
        assert_eq!(chain(&failed), words);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_with_the_cause_to_the_end() {
        let nobody = Dial::Unix("/nowhere/server.sock".into());
        let mut client = JoinClient::new(Uplink::new(nobody).channel());
        let status = client.enrol(EnrolRequest::default()).await.unwrap_err();
        let words = chain(&status);
        assert!(words.contains("No such file"), "{words}");
        assert!(!words.contains("metadata") && !words.contains('{'), "{words}");
    }
}
