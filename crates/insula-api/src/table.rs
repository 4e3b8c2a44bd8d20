//! All routes there are.

use crate::endpoint as e;
use crate::route::Route;

/// In the order in which the document tells of them.
pub fn routes() -> Vec<Route> {
    let groups: &[fn() -> Vec<Route>] = &[
        e::public::routes,
        e::metrics::routes,
        e::session::routes,
        e::orgs::routes,
        e::members::routes,
        e::invitations::routes,
        e::tokens::routes,
        e::projects::routes,
        e::environments::routes,
        e::apps::routes,
        e::actions::routes,
        e::sources::routes,
        e::deployments::routes,
        e::releases::routes,
        e::instances::routes,
        e::builds::routes,
        e::logs::routes,
        e::runs::routes,
        e::events::routes,
        e::variables::routes,
        e::secrets::routes,
        e::domains::routes,
        e::why::routes,
        e::nodes::routes,
        e::joins::routes,
        e::gateways::routes,
        e::status::routes,
    ];
    groups.iter().flat_map(|group| group()).collect()
}
