//! The tests that SECURITY.md names exist.
//!
//! The page names them in the last column of the threats, and after `shown by`. Words in
//! parentheses after a file of `tests` select some of its tests. Modules follow `unit tests of`.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Named tests: files with the words in parentheses, and modules.
#[derive(Default, Debug, PartialEq)]
struct Named {
    tests: Vec<(String, Vec<String>)>,
    modules: Vec<String>,
}

impl Named {
    fn read(&mut self, text: &str) {
        for part in text.split(';') {
            let (tests, modules) = part.split_once("unit tests of").unwrap_or((part, ""));
            self.modules.extend(quoted(modules));
            for (index, piece) in tests.split(['(', ')']).enumerate() {
                if index % 2 == 0 {
                    self.tests.extend(quoted(piece).map(|name| (name, Vec::new())));
                } else if let Some((_, filters)) = self.tests.last_mut() {
                    filters.extend(quoted(piece));
                }
            }
        }
    }

    /// Reads a page.
    fn of_page(page: &str) -> Self {
        let mut named = Self::default();
        for row in page.lines().filter(|line| line.starts_with("| **")) {
            named.read(row.trim_matches('|').rsplit('|').next().unwrap_or_default());
        }
        let paragraphs = page.split("\n\n").filter(|paragraph| !paragraph.starts_with('|'));
        for paragraph in paragraphs {
            for text in paragraph.split("shown by").skip(1) {
                named.read(text.split_once(['.', ':']).map_or(text, |(text, _)| text));
            }
        }
        named
    }

    /// Returns the named tests that `crates` does not have.
    fn missing(&self, crates: &Path) -> Vec<String> {
        let crates: Vec<PathBuf> =
            fs::read_dir(crates).unwrap().map(|entry| entry.unwrap().path()).collect();
        let is_shown = |(name, filters): &&(String, Vec<String>)| {
            let files = [format!("{name}.rs"), format!("{name}/main.rs")];
            let file =
                crates.iter().flat_map(|it| files.iter().map(|file| it.join("tests").join(file)));
            file.filter(|file| file.exists())
                .any(|file| filters.iter().all(|filter| has(&file, filter)))
        };
        let has_tests = |module: &&String| {
            let path = format!("{}.rs", module.trim_start_matches("rscni::").replace("::", "/"));
            let mut files = crates.iter().map(|it| it.join("src").join(&path));
            files.any(|file| fs::read_to_string(file).is_ok_and(|text| text.contains("#[test]")))
        };
        let tests = self
            .tests
            .iter()
            .filter(|it| !is_shown(it))
            .map(|(name, filters)| format!("{name} {filters:?}"));
        tests.chain(self.modules.iter().filter(|it| !has_tests(it)).cloned()).collect()
    }
}

fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Whether a word selects a test of a file: a module beside it, or a part of a test's name.
fn has(file: &Path, filter: &str) -> bool {
    let names = fs::read_to_string(file).unwrap();
    let mut names = names.lines().filter_map(|line| line.strip_prefix("fn ")?.split('(').next());
    let is_module =
        file.ends_with("main.rs") && file.with_file_name(format!("{filter}.rs")).exists();
    is_module || names.any(|name| name.contains(filter))
}

#[test]
fn the_named_tests_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let named = Named::of_page(&fs::read_to_string(root.join("SECURITY.md")).unwrap());
    assert!(
        named.tests.len() > 15 && named.modules.len() > 5,
        "the page is written in another way: {named:?}"
    );
    assert_eq!(named.missing(&root.join("crates")), [""; 0], "SECURITY.md names what is not there");
}

#[test]
fn a_missing_test_is_reported() {
    let page = "| who | shown by |\n|---|---|\n| **a** | `spoof` (`macspoofchk`, `nonsense`), `nowhere`; unit tests of `no::where` |\n\n\
                All is shown by `security` (`input`, `output`), and `spoof`. `Other` words.\n";
    let missing = Named::of_page(page).missing(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let expected = [
        r#"spoof ["macspoofchk", "nonsense"]"#,
        "nowhere []",
        r#"security ["input", "output"]"#,
        "no::where",
    ];
    assert_eq!(missing, expected);
}
