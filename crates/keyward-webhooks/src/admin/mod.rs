//! Management of webhook endpoints and their deliveries, recorded in the audit log.

#[expect(
    clippy::module_inception,
    reason = "the room is named after its main type"
)]
pub(crate) mod admin;
pub(crate) mod deliveries;
pub(crate) mod endpoints;
pub(crate) mod secrets;
pub(crate) mod working_endpoint;

pub use self::admin::WebhookAdmin;
pub use self::endpoints::{CreatedEndpoint, EndpointChange};
pub use self::working_endpoint::RequireWorkingEndpoint;
