//! The documents say what the code has: every code, option word, stage and level, and no other.
#![allow(clippy::disallowed_methods, reason = "a test reads the project's own files")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rootfs::Hint;
use rootfs::defaults;
use rootfs::error::ErrorCode;
use rootfs::execute::Level;
use rootfs::oci::fields::FIELDS;
use rootfs::options::{WORDS, parse};
use rootfs::plan::Stage;
use rootfs::support::Feature;

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

/// A part of a document is what the code makes of its tables. `ROOTFS_WRITE_DOCS=1 cargo test -p rootfs --test docs` writes it.
fn is_made_from_code(name: &str, part: &str, made: &str) {
    let text = document(name);
    let begin = text.find(&format!("<!-- {part}: ")).unwrap_or_else(|| panic!("{name} has no part {part}"));
    let from = begin + text[begin..].find('\n').unwrap() + 1;
    let to = from + text[from..].find("<!-- end -->").unwrap();
    if std::env::var_os("ROOTFS_WRITE_DOCS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
        std::fs::write(path, format!("{}{made}{}", &text[..from], &text[to..])).unwrap();
    } else {
        assert_eq!(
            &text[from..to],
            made,
            "docs/{name}: run ROOTFS_WRITE_DOCS=1 cargo test -p rootfs --test docs"
        );
    }
}

fn table<const N: usize>(heading: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&heading.map(str::to_owned)) + &line(&heading.map(|_| "---".to_owned()));
    text.extend(rows.into_iter().map(|cells| line(&cells)));
    text
}

#[test]
fn errors_are_the_tables_of_codes_and_hints() {
    let codes = ErrorCode::ALL
        .iter()
        .map(|code| [format!("`{code}`"), code.meaning().to_owned(), code.advice().to_owned()]);
    is_made_from_code("errors.md", "codes", &table(["code", "when", "what to do"], codes));
    let hints = Hint::ALL.iter().map(|hint| [hint.when().to_owned(), format!("{}.", hint.advice())]);
    is_made_from_code("errors.md", "hints", &table(["what fails", "`hint`"], hints));
}

#[test]
fn features_are_the_table_that_is_probed() {
    let features = Feature::ALL.iter().map(|feature| {
        [
            format!("`{}`", feature.name()),
            feature.since().into(),
            feature.purpose().into(),
            feature.without().into(),
        ]
    });
    is_made_from_code(
        "kernels.md",
        "features",
        &table(["feature", "Linux", "what for", "without it"], features),
    );
}

/// Every Rust file of the crates, by its path.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// Advice is in one table, so that it is documented; and what is in the table is given.
#[test]
fn hints_come_from_the_table_and_each_is_used() {
    let sources = sources();
    let code = sources.iter().filter(|(path, _)| path.components().any(|part| part.as_os_str() == "src"));
    let mut used = String::new();
    for (path, text) in code.clone() {
        let elsewhere: String = text.split_whitespace().collect();
        let own = elsewhere.contains(".with_hint(\"") || elsewhere.contains(".with_hint(format!");
        assert!(!own, "{}: put the advice into the table of crates/rootfs/src/hint.rs", path.display());
        used.push_str(text);
    }
    for hint in Hint::ALL {
        let name = format!("{hint:?}");
        let here = [format!("Hint::{name}"), format!("Self::{name}")];
        assert!(here.iter().any(|here| used.contains(here)), "{name} is never given");
    }
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
fn oci_fields_are_the_table_that_the_reader_goes_by() {
    let fields = FIELDS
        .iter()
        .map(|field| [format!("`{}`", field.path), field.treatment.name().to_owned(), field.note.to_owned()]);
    is_made_from_code("oci.md", "fields", &table(["field", "what is done", "how, or why not"], fields));
}

#[test]
fn stages_and_levels_are_those_of_the_code() {
    let text = document("architecture.md");
    let line = text.lines().find(|line| line.starts_with("`namespaces`")).unwrap();
    let stages: Vec<_> = Stage::ALL.iter().map(|stage| stage.name()).collect();
    assert_eq!(quoted(line), stages);
    let levels: Vec<&str> = rows(&text).filter_map(|cells| quoted(cells[0]).first().copied()).collect();
    assert_eq!(levels, Level::ALL.map(Level::name));
}

#[test]
fn defaults_are_absolute_and_unique() {
    let paths: BTreeSet<_> = defaults::MASKED_PATHS.iter().chain(&defaults::READONLY_PATHS).collect();
    assert_eq!(paths.len(), defaults::MASKED_PATHS.len() + defaults::READONLY_PATHS.len());
    assert!(paths.iter().all(|path| path.starts_with('/')));
}

#[test]
fn what_the_security_model_names_is_there() {
    let text = document("security.md");
    let mut named = 0;
    for link in text.split("](../").skip(1).zip(text.split("](../")) {
        let (after, before) = link;
        let path = after.split(')').next().unwrap();
        let name = before.rsplit_once('[').unwrap().1;
        // Links to documents have titles of their own.
        if !path.contains("/src/") && !path.contains("test") && path != "clippy.toml" {
            continue;
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        let content = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(content.contains(name), "{path} has no {name}");
        named += 1;
    }
    assert!(named > 40, "{named}");
    let attacks = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-supervisor/tests/attacks/list.rs"),
    )
    .unwrap();
    for name in attacks.split("        name: \"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(text.contains(&format!("[{name}](")), "docs/security.md doesn't have the attack {name}");
    }
}
