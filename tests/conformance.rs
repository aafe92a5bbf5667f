//! docs/conformance.md names tests that exist, and leaves no row out.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Numbers that the list of behaviours does not use.
const UNUSED: [u32; 15] = [7, 13, 16, 21, 36, 44, 52, 63, 71, 72, 74, 90, 102, 124, 141];

/// Rows of the weaknesses that must be impossible, each shown by a test.
fn impossible() -> impl Iterator<Item = u32> {
    (1..=14).chain(16..=31).chain(38..=39).chain(43..=48)
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    fs::read_to_string(path).unwrap()
}

/// The file that a reference such as `behaviour/start` stands for.
fn file(reference: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = [root.join("tests"), root.to_owned(), root.join("examples/config_center/tests")];
    let names = [format!("{reference}.rs"), format!("{reference}/mod.rs")];
    roots
        .iter()
        .flat_map(|root| names.iter().map(|name| root.join(name)))
        .find(|path| path.is_file())
}

/// Whether the file has a function of this name that is run as a test.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_function = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").is_some_and(|rest| rest.starts_with(&format!("{name}(")))
    };
    let Some(at) = lines.iter().position(|line| is_function(line)) else { return false };
    let mut above =
        lines[..at].iter().rev().take_while(|l| l.starts_with("#[") || l.starts_with("//"));
    let is_marked =
        above.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    // Tests without the standard harness are on a list of their module.
    let is_listed = text.contains("tests![") && lines.contains(&format!("{name},").as_str());
    is_marked || is_listed
}

/// The references of a text: what stands between backticks and has `::` between a file and a name.
fn references(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_name =
        |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c));
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once("::"))
        .filter(move |(_, name)| is_name(name))
}

/// The cells after the first one of each row, by each number in the first one.
fn rows(text: &str) -> BTreeMap<&str, &str> {
    let mut rows = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix('|')) {
        let (first, cells) = line.split_once('|').unwrap();
        let is_number = |name: &&str| name.trim_start_matches('W').parse::<u32>().is_ok();
        for number in first.split(',').map(str::trim).filter(is_number) {
            assert!(rows.insert(number, cells).is_none(), "row {number} is there twice");
        }
    }
    rows
}

#[test]
fn every_test_that_the_table_names_exists() {
    let document = document();
    let missing: Vec<String> = references(&document)
        .filter(|(path, name)| {
            let text = file(path).map(|path| fs::read_to_string(path).unwrap());
            !text.is_some_and(|text| has_test(&text, name))
        })
        .map(|(path, name)| format!("{path}::{name}"))
        .collect();
    assert!(missing.is_empty(), "no such test: {missing:#?}");
    assert!(references(&document).count() > 150, "the table is read");
}

#[test]
fn no_row_is_left_out() {
    let document = document();
    let rows = rows(&document);
    let wanted = (1..=150).filter(|row| !UNUSED.contains(row)).map(|row| row.to_string());
    let wanted = wanted.chain((1..=50).map(|row| format!("W{row}")));
    let missing: Vec<String> = wanted.filter(|row| !rows.contains_key(row.as_str())).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    for (row, cells) in &rows {
        let is_told = references(cells).next().is_some() || cells.contains("none: ");
        assert!(is_told, "row {row} has neither a test nor a reason for none");
    }
}

#[test]
fn what_must_be_impossible_is_tested() {
    let document = document();
    let rows = rows(&document);
    for row in impossible() {
        let cells = rows[format!("W{row}").as_str()];
        assert!(references(cells).next().is_some(), "W{row} names no test");
    }
}
