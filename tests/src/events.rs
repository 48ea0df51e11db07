//! Every event that the crates emit is in `docs/events.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A row of the table: crate, level and message.
type Row = (String, String, String);

#[test]
fn the_docs_list_every_event_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = fs::read_to_string(root.join("docs/events.md")).unwrap();
    let listed: BTreeSet<Row> = docs.lines().filter_map(listed).collect();
    let mut emitted = BTreeSet::new();
    for folder in fs::read_dir(root.join("crates")).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        read(&folder.path().join("src"), &mut |source| {
            for (level, message) in events(source) {
                emitted.insert((name.clone(), level, message));
            }
        });
    }
    assert!(emitted.len() > 40, "{emitted:?}");
    let missing: Vec<_> = emitted.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&emitted).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "docs/events.md lacks {missing:#?}\nand lists what no crate emits: {gone:#?}"
    );
}

#[test]
fn a_message_is_read_over_several_lines() {
    let source = "tracing::warn!(\n %path,\n key = \"(\",\n \"one \\\n   two\"\n); tracing::debug!(\"three\")";
    let read: Vec<_> = events(source).collect();
    let pair = |level: &str, message: &str| (level.to_owned(), message.to_owned());
    assert_eq!(read, [pair("warn", "one two"), pair("debug", "three")]);
}

fn listed(line: &str) -> Option<Row> {
    let mut cells = line.strip_prefix("| keyward")?.split(" | ");
    let name = format!("keyward{}", cells.next()?);
    Some((name, cells.next()?.to_owned(), cells.next()?.to_owned()))
}

fn read(folder: &Path, each: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, each);
        } else if path.extension().is_some_and(|end| end == "rs") {
            each(&fs::read_to_string(path).unwrap());
        }
    }
}

/// The level and the message of each event: the last string of a macro of tracing.
fn events(source: &str) -> impl Iterator<Item = (String, String)> {
    source.split("tracing::").skip(1).filter_map(|rest| {
        let (level, body) = rest.split_once("!(")?;
        if !["error", "warn", "info", "debug", "trace"].contains(&level) {
            return None;
        }
        let message = last_string(body)?;
        let lines = message.split("\\\n").map(str::trim_start);
        Some((level.to_owned(), lines.collect()))
    })
}

/// The last string before the parenthesis that ends the macro.
fn last_string(body: &str) -> Option<&str> {
    let (mut depth, mut from, mut last, mut escaped) = (1, None, None, false);
    for (at, c) in body.char_indices() {
        match (from, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(start), '"') => {
                last = body.get(start..at);
                from = None;
            }
            (None, '"') => from = Some(at + 1),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    last
}
