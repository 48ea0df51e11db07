//! A page that reads events, whose key is revoked meanwhile.

use crate::browser::driver::Browser;
use crate::streams::{SOON, serve_example};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_sees_the_end_of_its_events_soon_after_its_key_is_revoked() {
    for stack in ["axum", "actix"] {
        let Some(browser) = Browser::start().await else {
            return;
        };
        let (port, _) = serve_example(stack).await;
        browser.open(&format!("http://localhost:{port}/")).await;
        let seen = browser
            .run(
                "const at = id => document.getElementById(id); \
                 const until = async is => { while (!is()) await new Promise(done => setTimeout(done, 10)); }; \
                 await until(() => Number(at('count').value) >= 3); \
                 const since = performance.now(); at('revoke').click(); \
                 await until(() => at('state').value !== 'open'); \
                 const took = performance.now() - since; \
                 await until(() => at('state').value.includes('then')); \
                 return [took, at('state').value];",
                &[],
            )
            .await;
        assert_eq!(seen[1], "ended, then 401", "{stack}: {seen}");
        let took = seen[0].as_f64().unwrap();
        println!("{stack}: the page saw the end after {took:.0} ms");
        assert!(took < SOON.as_secs_f64() * 1000.0, "{stack}: {took} ms");
    }
}
