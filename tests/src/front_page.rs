//! The first page of the core shows a program that compiles.

#[test]
fn the_front_page_of_the_core_is_the_axum_example() {
    let core = include_str!("../../crates/keyward/src/lib.rs");
    let docs = core.lines().map_while(|line| line.strip_prefix("//!"));
    let shown = docs.map(|line| line.strip_prefix(' ').unwrap_or(line));
    let shown: Vec<_> = shown
        .skip_while(|line| !line.starts_with("```ignore"))
        .skip(1)
        .take_while(|line| *line != "```")
        .collect();
    let example = include_str!("../../examples/axum.rs");
    let example = example.lines().skip_while(|line| !line.starts_with("use "));
    assert_eq!(shown, example.collect::<Vec<_>>());
}
