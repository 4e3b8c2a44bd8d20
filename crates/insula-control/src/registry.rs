//! Lets the fleet's port ask who belongs to the fleet.

use insula_kit::pki::PublicKey;
use insula_link::registry::{Admission, Newcomer, Refusal, Registry, Verdict, Voucher, Why};
use insula_model::fleet::{Member, Serial};
use insula_store::WriteError;
use insula_store::enrolments::EnrolRefusal;
use insula_store::joins::JoinRefusal;
use insula_vault::fleet::{self, FleetError, Registrar};

/// The fleet's identities, seen from the protocol.
#[derive(Debug, Clone)]
pub struct Members(pub Registrar);

impl Registry for Members {
    fn admit(&self, newcomer: Newcomer) -> Verdict<'_, Admission> {
        let Newcomer { voucher, member, name, version, key } = newcomer;
        let voucher = match voucher {
            Voucher::Token(token) => fleet::Voucher::Token(token),
            Voucher::Machine => fleet::Voucher::Machine,
        };
        let newcomer = fleet::Newcomer { voucher, member, name, version, key };
        Box::pin(async move { self.0.join(newcomer).await.map(admission).map_err(refusal) })
    }

    fn renew(&self, member: Member, key: PublicKey) -> Verdict<'_, Admission> {
        Box::pin(async move { self.0.renew(member, key).await.map(admission).map_err(refusal) })
    }

    fn check(&self, member: Member, serial: Serial) -> Verdict<'_, ()> {
        Box::pin(async move { self.0.check(member, serial).await.map_err(not_counting) })
    }
}

fn admission(admitted: fleet::Admission) -> Admission {
    let fleet::Admission { certificate, authorities, not_after, name, .. } = admitted;
    Admission { certificate, authorities, not_after, name }
}

fn refusal(error: FleetError) -> Refusal {
    match error {
        FleetError::Join(JoinRefusal::Store(error)) => failed(&error),
        FleetError::Join(refused) => {
            let why = match refused {
                JoinRefusal::Unknown | JoinRefusal::Store(_) => Why::Unknown,
                JoinRefusal::Expired { .. }
                | JoinRefusal::Used { .. }
                | JoinRefusal::OtherRole { .. } => Why::Denied,
            };
            Refusal { why, words: refused.to_string() }
        }
        FleetError::Enrol(refused) => not_counting(refused),
        FleetError::Write(WriteError::Revoked { member }) => {
            Refusal { why: Why::Removed, words: format!("{member} was removed from this fleet") }
        }
        error @ (FleetError::Write(_) | FleetError::Sealed(_) | FleetError::Pki(_)) => {
            failed(&error)
        }
    }
}

fn not_counting(refused: EnrolRefusal) -> Refusal {
    let why = match &refused {
        EnrolRefusal::Store(error) => return failed(error),
        EnrolRefusal::Unknown { .. } | EnrolRefusal::NeverIssued { .. } => Why::Unknown,
        EnrolRefusal::Revoked { .. } => Why::Removed,
        EnrolRefusal::Superseded { .. } => Why::Denied,
        EnrolRefusal::Present { .. } => Why::Present,
    };
    Refusal { why, words: refused.to_string() }
}

/// The words for the other side tell nothing of our insides; the log gets the rest.
fn failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::warn!(error, "the fleet's members could not be looked up");
    Refusal { why: Why::Failed, words: "the server cannot look that up at the moment".into() }
}
