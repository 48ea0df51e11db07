//! How many lines each service needs for its key rules, as the README of the examples says.

use std::fs;

/// The folder of each, as the table has them.
const SERVICES: [&str; 5] = [
    "helium-id",
    "helios-health",
    "helplane",
    "heliossend",
    "verifyhuman",
];

#[test]
fn the_readme_says_how_many_lines_the_key_rules_take() {
    let root = format!("{}/..", env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(format!("{root}/examples/README.md")).unwrap();
    for name in SERVICES {
        let path = format!("{root}/examples/services/{name}/rules.rs");
        let rules = fs::read_to_string(path).unwrap();
        let code = rules.lines().map(str::trim);
        let code = code.filter(|line| !line.is_empty() && !line.starts_with("//"));
        let row = readme
            .lines()
            .find(|line| line.contains(&format!("services/{name}/")));
        let said = row.and_then(|row| row.trim_end_matches(" |").rsplit_once("| "));
        let (_, said) = said.expect("the README has a row for it");
        assert_eq!(said, code.count().to_string(), "{name}");
    }
}
