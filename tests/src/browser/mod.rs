//! Keys in a real browser: headless Chromium, driven through `WebDriver`, on both stacks.
//!
//! Pages and services are `*.localhost` names on two ports of this machine, which Chromium resolves
//! by itself. Without Chromium and its driver these tests fail; with `KEYWARD_NO_BROWSER` set they
//! say that they did not run.

mod checks;
mod driver;
mod example;
mod kinds;
mod site;
mod streams;
