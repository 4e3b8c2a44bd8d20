//! Gateways that joined from elsewhere, for the operator.

use insula_model::GatewayId;
use insula_model::fleet::Member;
use insula_store::gateways;
use insula_wire::rest::join::Gateway;

use crate::context::Cx;
use crate::endpoint::public::whole_list;
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{Route, Rule, delete, read};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/gateways", "list_gateways", Rule::Operator, list)
            .about("Gateways that joined from elsewhere")
            .live()
            .answers_page::<Gateway>(),
        delete("/v1/gateways/{gateway}", "remove_gateway", Rule::Operator, remove)
            .about("Takes a gateway out of the fleet for ever")
            .answers_nothing(),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let all = cx.read(move |tx| Ok(gateways::list(tx)?)).await?;
    let connected = cx.api.state.hub.gateways_connected();
    whole_list(all.iter().map(|one| Gateway::new(one, connected.contains(&one.id))).collect())
}

async fn remove(cx: Cx) -> Result<Reply, ApiError> {
    let id: GatewayId = cx.param("gateway", "gateway")?;
    let reply = cx
        .write(move |tx, deed| {
            gateways::remove(tx, id, deed.now)?;
            deed.tell(
                tx,
                Happened {
                    kind: "gateway.removed",
                    subject: id.to_string(),
                    message: "the gateway was taken out of the fleet".into(),
                    ..Happened::default()
                },
            )?;
            Ok(Whole::nothing())
        })
        .await?;
    // Other servers end its sessions when they read of it; ours need not wait for that.
    cx.api.state.hub.expel(Member::Gateway(id));
    Ok(reply)
}
