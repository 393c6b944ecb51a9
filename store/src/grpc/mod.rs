//! The gRPC face: who may call, what was asked, and answers in the words of the wire.

pub mod access;
mod agents;
mod assets;
mod environments;
mod face;
mod fleet;
mod given;
mod host;
mod logs;
mod pushes;
mod releases;
mod rollouts;
pub mod sessions;
pub mod sources;
mod status;
mod view;

pub use face::Face;
pub use releases::Rooms;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use ship_proto::MAX_MESSAGE;
use ship_proto::v1::agents_server::AgentsServer;
use ship_proto::v1::assets_server::AssetsServer;
use ship_proto::v1::environments_server::EnvironmentsServer;
use ship_proto::v1::fleet_server::FleetServer;
use ship_proto::v1::releases_server::ReleasesServer;
use ship_proto::v1::rollouts_server::RolloutsServer;
use tonic::service::Routes;

/// All services, behind the one check of who calls.
pub fn router(face: Face, rooms: Arc<Rooms>) -> Router {
    let door = access::Door {
        clock: face.clock.clone(),
        fleet: Arc::clone(&face.fleet),
    };
    let assets = AssetsServer::new(assets::AssetsFace::new(face.clone(), Arc::clone(&rooms)));
    let releases = ReleasesServer::new(releases::ReleasesFace::new(face.clone(), Arc::clone(&rooms)));
    let rollouts = RolloutsServer::new(rollouts::RolloutsFace(face.clone(), rooms));
    let environments = EnvironmentsServer::new(environments::EnvironmentsFace(face.clone()));
    let fleet = FleetServer::new(fleet::FleetFace(face.clone()));
    let agents = AgentsServer::new(agents::AgentsFace(face));
    Routes::new(releases.max_decoding_message_size(MAX_MESSAGE))
        .add_service(rollouts.max_decoding_message_size(MAX_MESSAGE))
        .add_service(environments.max_decoding_message_size(MAX_MESSAGE))
        .add_service(fleet.max_decoding_message_size(MAX_MESSAGE))
        .add_service(agents.max_decoding_message_size(MAX_MESSAGE))
        .add_service(assets.max_decoding_message_size(MAX_MESSAGE))
        .into_axum_router()
        .layer(from_fn_with_state(door, access::check))
}
