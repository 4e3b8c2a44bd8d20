//! Members of the fleet as certificates name them.

use insula_kit::pki::{Subject, Whom};
use insula_model::NodeId;
use insula_model::fleet::Member;

/// Nothing for a subject that is none of the roles we know.
pub(crate) fn member(subject: &Subject) -> Option<Member> {
    let id = subject.id();
    match subject.role() {
        "node" => id.parse().ok().map(Member::Node),
        "gateway" => id.parse().ok().map(Member::Gateway),
        "server" => id.parse().ok().map(Member::Server),
        _ => None,
    }
}

pub(crate) fn whom(node: NodeId) -> Whom {
    Whom::one("node", &node.to_string()).expect("the id of a node is the id of a subject")
}

#[cfg(test)]
mod tests {
    use insula_model::{GatewayId, ServerId};

    use super::*;

    #[test]
    fn a_role_cannot_be_had_with_the_id_of_another() {
        let node = Member::Node(NodeId::from_u128(1));
        let gateway = Member::Gateway(GatewayId::from_u128(1));
        let server = Member::Server(ServerId::from_u128(1));
        let subject = |role: &str, id: String| Subject::new(role, &id).unwrap();
        for known in [node, gateway, server] {
            assert_eq!(member(&subject(known.role(), known.to_string())), Some(known));
        }
        assert_eq!(member(&subject("node", gateway.to_string())), None);
        assert_eq!(member(&subject("root", node.to_string())), None);
        assert!(whom(NodeId::from_u128(1)).accepts(&subject("node", node.to_string())));
    }
}
