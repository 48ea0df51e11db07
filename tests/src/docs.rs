//! Compiles every code block of the README and of `docs/`.

#[doc = include_str!("../../README.md")]
struct Readme;

#[doc = include_str!("../../docs/actix.md")]
struct Actix;

#[doc = include_str!("../../docs/axum.md")]
struct Axum;

#[doc = include_str!("../../docs/browser.md")]
struct Browser;

#[doc = include_str!("../../docs/custom-store.md")]
struct CustomStore;

#[doc = include_str!("../../docs/environments.md")]
struct Environments;

#[doc = include_str!("../../docs/events.md")]
struct Events;

#[doc = include_str!("../../docs/guarantees.md")]
struct Guarantees;

#[doc = include_str!("../../docs/importing.md")]
struct Importing;

#[doc = include_str!("../../docs/jwt-and-sessions.md")]
struct JwtAndSessions;

#[doc = include_str!("../../docs/keys.md")]
struct Keys;

#[doc = include_str!("../../docs/limits.md")]
struct Limits;

#[doc = include_str!("../../docs/machines.md")]
struct Machines;

#[doc = include_str!("../../docs/operating.md")]
struct Operating;

#[doc = include_str!("../../docs/performance.md")]
struct Performance;

#[doc = include_str!("../../docs/testing.md")]
struct Testing;

#[doc = include_str!("../../docs/webhooks.md")]
struct Webhooks;
