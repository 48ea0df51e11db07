//! What an end-user sees of a session, and what comes of what she shows.

use crate::{Answer, Call};
use serde_json::{Value, json};

/// What she can show, and what is decided then. The example looks at no passport: she says what it is.
const DOCUMENTS: [(&str, &str); 3] = [
    ("passport", "approved"),
    ("expired", "declined"),
    ("blurred", "resubmission"),
];

/// Whether she can show something: for the first time, or again.
pub(crate) fn is_open(session: &Value) -> bool {
    session["status"] == "created" || session["status"] == "resubmission"
}

/// The page of a session.
pub(crate) fn page(session: &Value) -> String {
    let person = escaped(session["person"].as_str().unwrap_or_default());
    let status = escaped(session["status"].as_str().unwrap_or_default());
    let shown = if is_open(session) {
        let buttons = DOCUMENTS.map(|(document, _)| {
            format!("<button name=\"document\" value=\"{document}\">{document}</button>")
        });
        format!(
            "<form method=\"post\"><p>Show a document: {}</p></form>",
            buttons.join(" ")
        )
    } else {
        "<p>You are done here.</p>".to_owned()
    };
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Helium Id</title>\
         <h1>{person}, who are you?</h1><p>Status: {status}</p>{shown}</html>"
    )
}

/// What is decided on the document of a form; without one it is a passport.
pub(crate) fn decision(call: &Call) -> Result<&'static str, Answer> {
    let form = std::str::from_utf8(&call.body).unwrap_or_default();
    let document = match form.strip_prefix("document=") {
        Some(document) => document,
        None if form.is_empty() => "passport",
        None => "",
    };
    let known = DOCUMENTS.iter().find(|(own, _)| *own == document);
    known.map(|(_, decision)| *decision).ok_or_else(|| {
        let error = "document is passport, expired or blurred";
        Answer::new(422, json!({ "error": error }))
    })
}

/// Text in HTML.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
