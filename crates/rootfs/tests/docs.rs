//! The documents say what the code has: every code, option word, stage and level, and no other.
#![allow(clippy::disallowed_methods, reason = "a test reads the project's own files")]

use std::collections::BTreeSet;
use std::path::Path;

use rootfs::defaults;
use rootfs::error::ErrorCode;
use rootfs::execute::Level;
use rootfs::oci::fields::FIELDS;
use rootfs::options::{WORDS, parse};
use rootfs::plan::Stage;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the document's tables, without headings.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// What is in backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn errors_are_the_table_of_codes() {
    let text = document("errors.md");
    let documented: Vec<(&str, &str)> = rows(&text)
        .filter_map(|cells| Some((*quoted(cells[0]).first()?, cells[1])))
        .filter(|(code, _)| code.starts_with("ERR_ROOTFS_"))
        .collect();
    let known: Vec<_> = ErrorCode::ALL.iter().map(|code| (code.name(), code.meaning())).collect();
    assert_eq!(documented, known);
}

#[test]
fn options_are_the_table_of_words() {
    let text = document("options.md");
    let documented: Vec<&str> = rows(&text).flat_map(|cells| quoted(cells[0])).collect();
    let unique: BTreeSet<&str> = documented.iter().copied().collect();
    assert_eq!(documented.len(), unique.len(), "a word is there twice");
    assert_eq!(unique, WORDS.iter().map(|word| word.name).collect());
}

#[test]
fn options_that_are_not_supported_are_documented_as_such() {
    let text = document("options.md");
    for cells in rows(&text) {
        let documented = cells[1].contains("not supported");
        for word in quoted(cells[0]) {
            let refused = parse(&[word]).is_err_and(|error| error.code == ErrorCode::Unsupported);
            assert_eq!(refused, documented, "{word}");
        }
    }
}

#[test]
fn oci_fields_are_the_table_of_fields() {
    let text = document("oci.md");
    let documented: Vec<String> = rows(&text).map(|cells| cells.join(" | ")).collect();
    let table: Vec<String> = FIELDS
        .iter()
        .map(|field| {
            format!("`{}` | {} | {}", field.path, field.treatment.name(), field.note).trim_end().to_owned()
        })
        .collect();
    assert_eq!(
        documented.iter().map(|row| row.trim_end()).collect::<Vec<_>>(),
        table,
        "\n{}",
        table.join("\n")
    );
}

#[test]
fn stages_and_levels_are_those_of_the_code() {
    let text = document("architecture.md");
    let line = text.lines().find(|line| line.starts_with("`namespaces`")).unwrap();
    let stages: Vec<_> = Stage::ALL.iter().map(|stage| stage.name()).collect();
    assert_eq!(quoted(line), stages);
    let levels: Vec<&str> = rows(&text).filter_map(|cells| quoted(cells[0]).first().copied()).collect();
    assert_eq!(levels, [Level::Detached.name(), Level::Attached.name()]);
}

#[test]
fn defaults_are_absolute_and_unique() {
    let paths: BTreeSet<_> = defaults::MASKED_PATHS.iter().chain(&defaults::READONLY_PATHS).collect();
    assert_eq!(paths.len(), defaults::MASKED_PATHS.len() + defaults::READONLY_PATHS.len());
    assert!(paths.iter().all(|path| path.starts_with('/')));
}
