//! Reads a contract: the sentences of a document, and below each what shows it.

/// A document, in sections; each is shown by a service that was just started.
#[derive(Debug)]
pub(super) struct Contract {
    /// What stands in the document's own commands, and what the test puts there: host and key.
    pub(super) replaced: Vec<(String, String)>,
    pub(super) sections: Vec<Vec<Step>>,
}

/// A thing to do, and where it stands in the file.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) doing: Doing,
    /// Whether it may take a while until it is answered so.
    pub(super) soon: bool,
    pub(super) answer: Option<Expected>,
}

/// What is done.
#[derive(Debug)]
pub(super) enum Doing {
    Request {
        method: String,
        path: String,
        fields: Vec<(String, String)>,
        body: String,
        times: usize,
    },
    /// A command of several lines, as it stands in the document.
    Curl(String),
    /// So many seconds pass.
    Later(u64),
    /// The service is started again, with what it has stored.
    Again,
}

/// What is answered. `…` stands for any text, and `{name}` for what the name stands for; the first
/// time, for any text, which it then stands for.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) status: u16,
    pub(super) body: Option<String>,
    pub(super) fields: Vec<(String, String)>,
}

impl Contract {
    /// Reads it, and sees to it that nothing in it is left without a row or a reason.
    ///
    /// A quotation is a place in the document. Below it are blocks of requests with their answers, or
    /// why there are none: `Not observable:`, or `Shown` and where.
    pub(super) fn read(text: &str) -> Self {
        let mut contract = Self {
            replaced: Vec::new(),
            sections: vec![Vec::new()],
        };
        let mut unshown: Option<(usize, &str)> = None;
        let mut in_block = false;
        let mut in_quote = false;
        for (number, line) in (1..).zip(text.lines()) {
            if line.starts_with("```") {
                in_block = !in_block;
                if in_block {
                    unshown = None;
                }
            } else if in_block {
                contract.in_block(number, line);
            } else if let Some(quoted) = line.strip_prefix('>') {
                assert!(
                    in_quote || unshown.is_none(),
                    "nothing shows line {unshown:?}, and nothing says why not"
                );
                unshown = Some((number, quoted));
            } else if line.starts_with("Not observable:") || line.starts_with("Shown") {
                unshown = None;
            } else if line.starts_with("## ") {
                contract.sections.push(Vec::new());
            } else if let Some(row) = line.strip_prefix("| `") {
                let cells = row.strip_suffix("` |").expect("a row of two cells");
                let (there, here) = cells.split_once("` | `").expect("a row of two cells");
                contract.replaced.push((there.into(), here.into()));
            }
            in_quote = line.starts_with('>');
        }
        assert_eq!(unshown, None, "nothing shows it, and nothing says why not");
        assert!(!in_block, "a block has no end");
        for step in contract.sections.iter().flatten() {
            let silent = matches!(step.doing, Doing::Later(_) | Doing::Again);
            assert!(
                silent || step.answer.is_some(),
                "line {} has no answer",
                step.line
            );
        }
        contract.sections.retain(|section| !section.is_empty());
        contract
    }

    fn in_block(&mut self, number: usize, line: &str) {
        let steps = self.sections.last_mut().expect("there is one at least");
        if let Some(expected) = line.strip_prefix("→ ") {
            let step = steps.last_mut().expect("an answer follows a request");
            let (status, body) = match expected.split_once(' ') {
                Some((status, body)) => (status, Some(body.to_owned())),
                None => (expected, None),
            };
            step.answer = Some(Expected {
                status: status.parse().expect("a status"),
                body,
                fields: Vec::new(),
            });
            return;
        }
        let (line, soon) = match line.strip_suffix(" soon") {
            Some(line) => (line, true),
            None => (line, false),
        };
        if let Some(doing) = first_line(line) {
            steps.push(Step {
                line: number,
                doing,
                soon,
                answer: None,
            });
            return;
        }
        if line.is_empty() {
            return;
        }
        let step = steps.last_mut().expect("a block begins with a request");
        match (&mut step.doing, &mut step.answer, field(line)) {
            (_, Some(answer), Some(field)) => answer.fields.push(field),
            (Doing::Request { fields, body, .. }, None, Some(field)) if body.is_empty() => {
                fields.push(field);
            }
            (Doing::Request { body, .. }, None, _) => body.push_str(line),
            (Doing::Curl(command), None, _) => {
                command.push('\n');
                command.push_str(line);
            }
            (_, Some(_), None) | (Doing::Later(_) | Doing::Again, ..) => {
                panic!("line {number}: {line}")
            }
        }
    }
}

/// What begins here, if something does: `GET /path as ann × 3`, `curl …`, `60 s later` or `started again`. What ends in
/// `soon` has been noted before.
fn first_line(line: &str) -> Option<Doing> {
    if line.starts_with("curl ") {
        return Some(Doing::Curl(line.to_owned()));
    }
    if line == "started again" {
        return Some(Doing::Again);
    }
    if let Some(seconds) = line.strip_suffix(" s later") {
        return Some(Doing::Later(seconds.parse().expect("seconds")));
    }
    let (method, rest) = line.split_once(" /")?;
    if !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let (rest, times) = match rest.split_once(" × ") {
        Some((rest, times)) => (rest, times.parse().expect("how many times")),
        None => (rest, 1),
    };
    let mut fields = Vec::new();
    let path = match rest.split_once(" as ") {
        Some((path, person)) => {
            use base64::prelude::{BASE64_STANDARD, Engine as _};
            let encoded = BASE64_STANDARD.encode(format!("{person}:open-sesame"));
            fields.push(("authorization".to_owned(), format!("Basic {encoded}")));
            path
        }
        None => rest,
    };
    Some(Doing::Request {
        method: method.to_owned(),
        path: format!("/{path}"),
        fields,
        body: String::new(),
        times,
    })
}

fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(": ")?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!name.is_empty() && name.bytes().all(is_name)).then(|| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "nothing shows line")]
    fn refuses_a_sentence_that_nothing_shows() {
        Contract::read("> Keys are shown once.\n\n> They start with sk_.\n\nNot observable: so.\n");
    }

    #[test]
    #[should_panic(expected = "nothing shows it")]
    fn refuses_a_last_sentence_that_nothing_shows() {
        Contract::read("> Keys are shown once.\n\nTrue.\n");
    }

    #[test]
    #[should_panic(expected = "line 4 has no answer")]
    fn refuses_a_request_without_an_answer() {
        Contract::read("> Keys are shown once.\n\n```\nGET /keys as ann\n```\n");
    }
}
