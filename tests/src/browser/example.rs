//! The widget example as somebody would use it: with clicks.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::thread;

use fantoccini::Locator;

use crate::browser::driver::Browser;

#[tokio::test]
async fn the_example_in_axum_shows_what_passes_and_what_does_not() {
    click_through(|listener| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let port = listener.local_addr().unwrap().port();
            let (app, _) = widget::axum::service(port).await.unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
    })
    .await;
}

#[tokio::test]
async fn the_example_in_actix_shows_what_passes_and_what_does_not() {
    click_through(|listener| {
        actix_web::rt::System::new().block_on(async {
            let port = listener.local_addr().unwrap().port();
            let (routes, _) = widget::actix::service(port).await.unwrap();
            let app = move || actix_web::App::new().configure(routes.clone());
            let server = actix_web::HttpServer::new(app).workers(1);
            let server = server.listen(listener).unwrap().disable_signals();
            server.run().await.unwrap();
        });
    })
    .await;
}

/// Clicks in both pages, revokes the key and clicks again.
async fn click_through(serve: impl FnOnce(TcpListener) + Send + 'static) {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let picture = env::var_os("KEYWARD_SCREENSHOT");
    let port = if picture.is_some() { 3000 } else { 0 };
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(|| serve(listener));
    browser.client.set_window_size(1304, 1200).await.unwrap();
    browser.open(&format!("http://localhost:{port}/")).await;

    let shop = click(&browser, 0).await;
    assert_eq!(shop.result, "✓ You are over 18");
    let origin = format!("Origin: http://shop.localhost:{port} ");
    assert!(shop.request.contains(&origin), "{}", shop.request);
    assert!(shop.answer.starts_with("200"), "{}", shop.answer);
    let copycat = click(&browser, 1).await;
    assert_eq!(copycat.result, "✕ Not checked: origin_not_allowed");
    let origin = format!("Origin: http://copycat.localhost:{port} ");
    assert!(copycat.request.contains(&origin), "{}", copycat.request);
    assert!(copycat.answer.starts_with("403"), "{}", copycat.answer);
    if let Some(path) = picture {
        fs::write(path, browser.client.screenshot().await.unwrap()).unwrap();
    }

    let revoke = browser.client.find(Locator::Id("revoke")).await.unwrap();
    revoke.click().await.unwrap();
    let revoked = browser.client.wait();
    revoked
        .for_element(Locator::Css("#state.revoked"))
        .await
        .unwrap();
    for page in [0, 1] {
        let shown = click(&browser, page).await;
        assert_eq!(shown.result, "✕ Not checked: invalid_api_key");
    }
}

/// What a widget shows.
struct Shown {
    result: String,
    request: String,
    answer: String,
}

/// Clicks in the widget of a page, and waits for what it then shows.
async fn click(browser: &Browser, page: u16) -> Shown {
    browser.client.enter_frame(page).await.unwrap();
    let shown = browser
        .run(
            "const at = name => document.querySelector('main > div').shadowRoot.querySelector(name); \
             at('.result').hidden = true; at('button').click(); \
             while (at('.result').hidden) await new Promise(done => setTimeout(done, 10)); \
             return ['.result', '.request', '.answer'].map(name => at(name).textContent);",
            &[],
        )
        .await;
    browser.client.enter_parent_frame().await.unwrap();
    let text = |at: usize| shown[at].as_str().unwrap().to_owned();
    Shown {
        result: text(0),
        request: text(1),
        answer: text(2),
    }
}
