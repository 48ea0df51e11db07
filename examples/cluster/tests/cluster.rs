//! The example runs, and shows what it promises.

use std::process::Command;

#[test]
fn revoked_keys_are_dead_in_every_process_and_valid_ones_work() {
    if std::env::var_os("KEYWARD_NO_REDIS").is_some() {
        eprintln!("NOT RUN: the example `cluster`, because KEYWARD_NO_REDIS is set");
        return;
    }
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/run"))
        .args(["--seconds", "6"])
        .env("CLUSTER", env!("CARGO_BIN_EXE_cluster"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}\n{errors}");

    let summary = text.lines().last().unwrap();
    let revoked: u32 = summary.split(' ').next().unwrap().parse().unwrap();
    assert!(revoked > 1, "{summary}");
    // Every process allowed and limited requests, and refused no valid key.
    for node in ["node-1", "node-2", "node-3"] {
        let rows = text.lines().filter(|line| line.starts_with(node));
        let rows: Vec<Vec<_>> = rows.map(|row| row.split_whitespace().collect()).collect();
        let seen = |column: usize| rows.iter().any(|row| row[column] != "0");
        let [allowed, limited, unauthorized] = [seen(5), seen(6), seen(8)];
        assert!(allowed && limited && !unauthorized, "{node}\n{text}");
    }
}
