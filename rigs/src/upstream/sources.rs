//! Upstream's sources: the copy that is edited so that plugins are programs, and what is built from it.
//!
//! The edits are renames (`cmdAdd` becomes `originalCmdAdd`) and files of our own that hold what is called instead
//! (`go/`). No text of upstream's is kept here.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{Prepared, Suite};
use xtask::{go, program};

/// Upstream's sources and the Go toolchain to build them with.
pub(super) struct Sources {
    directory: PathBuf,
    version: String,
    go: PathBuf,
}

/// A Go package with a test suite.
pub(super) struct Package {
    /// The plugin that it is about.
    pub(super) plugin: String,
    /// Its directory, within the sources.
    directory: PathBuf,
}

/// What is copied; the rest is not needed to build.
const COPIED: [&str; 4] = ["go.mod", "go.sum", "pkg", "plugins"];

/// The commands of a plugin, and the functions that upstream has for them.
const COMMANDS: [(&str, &str); 5] = [
    ("ADD", "cmdAdd"),
    ("DEL", "cmdDel"),
    ("CHECK", "cmdCheck"),
    ("GC", "cmdGC"),
    ("STATUS", "cmdStatus"),
];

/// Functions of vendored packages that start programs: file, what begins their definition, and what it becomes.
const VENDORED: [(&str, &str, &str); 3] = [
    ("vendor/github.com/onsi/gomega/gexec/build.go", "func Build(", "func originalBuild("),
    ("vendor/github.com/onsi/gomega/gexec/session.go", "func Start(", "func originalStart("),
    (
        "vendor/github.com/containernetworking/cni/pkg/invoke/raw_exec.go",
        "func (e *RawExec) ExecPlugin(",
        "func (e *RawExec) originalExecPlugin(",
    ),
];

/// What single cases take for granted: file, text, and what it becomes.
const CASES: [(&str, &str, &str); 3] = [
    // They look at iptables without asking for it, as it is upstream's default.
    (
        "plugins/meta/portmap/portmap_integ_test.go",
        "\"type\": \"portmap\",",
        "\"type\": \"portmap\", \"backend\": \"iptables\",",
    ),
    // Any link does, and no kernel at hand has both dummy links and iptables.
    ("plugins/meta/firewall/firewall_iptables_test.go", "&netlink.Dummy{", "&netlink.Ifb{"),
    // A program has to be told of the bus.
    (
        "plugins/meta/firewall/firewall_firewalld_test.go",
        "testConn = conn\n",
        "testConn = conn\nsystemBus = busAddr\n",
    ),
];

/// Our files, and where they go.
const ADDED: [(&str, &str); 2] = [
    ("vendor/github.com/onsi/gomega/gexec/programs.go", include_str!("go/gexec.go")),
    (
        "vendor/github.com/containernetworking/cni/pkg/invoke/programs.go",
        include_str!("go/invoke.go"),
    ),
];

/// Our file in each plugin's package: the functions that are called instead of the renamed ones.
const CALLS: &str = include_str!("go/commands.go");

impl Sources {
    /// The checkout that was named, or that the environment names, or else the module's source.
    pub(super) fn find(named: Option<&Path>, go: &Path) -> Result<Self> {
        let variable = || std::env::var_os("UPSTREAM_SOURCES").map(PathBuf::from);
        let checkout = named.map(Path::to_path_buf).or_else(variable);
        let (directory, version) = if let Some(checkout) = checkout {
            ensure!(
                checkout.join("plugins/main/bridge").is_dir(),
                "{} is not a checkout of the Go plugins",
                checkout.display()
            );
            let mut git = Command::new("git");
            git.arg("-C").arg(&checkout).args(["describe", "--tags", "--always", "--dirty"]);
            let version = program::capture(&mut git).context("find upstream's version")?;
            (checkout, version.trim().to_owned())
        } else {
            let source = go::PLUGINS.source(go::command(go)).context(
                "upstream's tests need a Go toolchain (https://go.dev/dl), say where with --go, \
                 or a checkout, say where with --sources",
            )?;
            (source, go::PLUGINS.version.to_owned())
        };
        let directory =
            directory.canonicalize().with_context(|| format!("find {}", directory.display()))?;
        Ok(Self { directory, version, go: go.to_path_buf() })
    }

    /// Which version the sources are.
    pub(super) fn version(&self) -> String {
        format!("containernetworking/plugins {}", self.version)
    }

    /// Which version the toolchain is.
    pub(super) fn go_version(&self) -> Result<String> {
        Ok(program::capture(go::command(&self.go).arg("version"))?.trim().to_owned())
    }

    /// The packages of plugins that have tests.
    pub(super) fn packages(&self) -> Result<Vec<Package>> {
        let mut packages = Vec::new();
        for kind in ["main", "ipam", "meta"] {
            let parent = Path::new("plugins").join(kind);
            for name in names_in(&self.directory.join(&parent))? {
                let directory = parent.join(&name);
                let has_tests = names_in(&self.directory.join(&directory))?
                    .iter()
                    .any(|file| file.ends_with("_test.go"));
                if has_tests {
                    packages.push(Package { plugin: name, directory });
                }
            }
        }
        Ok(packages)
    }

    /// Builds upstream's plugins as they are, and the test suites in an edited copy.
    pub(super) fn prepare(
        &self,
        scratch: &Path,
        packages: &[Package],
        ours: &Path,
    ) -> Result<Prepared> {
        let [copy, theirs, tools, programs] =
            ["sources", "theirs", "tools", "suites"].map(|name| scratch.join(name));
        fs::create_dir(&copy).with_context(|| format!("make {}", copy.display()))?;
        let copied = COPIED.map(|name| self.directory.join(name));
        // Go's module cache is read-only, and its files are as well.
        let mut cp = Command::new("cp");
        cp.args(["--recursive", "--no-preserve=mode"]).args(copied).arg(&copy);
        program::capture(&mut cp).context("copy the sources")?;
        // Some edits are in packages that the sources depend on.
        program::capture(go::command(&self.go).args(["mod", "vendor"]).current_dir(&copy))
            .context("copy what the sources depend on")?;
        self.build(&copy, &["build"], &theirs, &["./plugins/...".to_owned()])?;
        let echo = ["server", "client"].map(|name| format!("./pkg/testutils/echo/{name}"));
        self.build(&copy, &["build"], &tools, &echo)?;

        for (file, begin, becomes) in VENDORED {
            ensure!(
                rename(&copy.join(file), begin, becomes)?,
                "upstream's {file} no longer has `{begin}`"
            );
        }
        for (file, text, becomes) in CASES {
            let cases =
                fs::read_to_string(copy.join(file)).with_context(|| format!("read {file}"))?;
            ensure!(cases.contains(text), "upstream's {file} no longer has `{}`", text.trim());
            fs::write(copy.join(file), cases.replace(text, becomes))
                .with_context(|| format!("write {file}"))?;
        }
        for (file, text) in ADDED {
            fs::write(copy.join(file), text).with_context(|| format!("write {file}"))?;
        }
        for package in packages {
            call_programs(&copy.join(&package.directory), &package.plugin)?;
        }
        let directories: Vec<String> =
            packages.iter().map(|p| format!("./{}", p.directory.display())).collect();
        self.build(&copy, &["test", "-c"], &programs, &directories)?;
        let suites = packages.iter().map(|package| Suite {
            plugin: package.plugin.clone(),
            program: programs.join(format!("{}.test", package.plugin)),
            directory: copy.join(&package.directory),
        });
        Ok(Prepared { suites: suites.collect(), tools, theirs, ours: ours.to_path_buf() })
    }

    fn build(
        &self,
        directory: &Path,
        command: &[&str],
        into: &Path,
        packages: &[String],
    ) -> Result<()> {
        fs::create_dir_all(into).with_context(|| format!("make {}", into.display()))?;
        let mut go = go::command(&self.go);
        go.args(command).args(["-mod=vendor", "-trimpath", "-o"]).arg(into.join("")).args(packages);
        go.current_dir(directory).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
        program::capture(&mut go)?;
        Ok(())
    }
}

/// Has the command functions of a plugin's package start the program instead, and the cases take its words for errors.
fn call_programs(package: &Path, plugin: &str) -> Result<()> {
    let mut text = format!("{CALLS}\nconst pluginUnderTest = \"{plugin}\"\n");
    for file in names_in(package)?.iter().filter(|name| is_program_source(name)) {
        for (command, function) in COMMANDS {
            let original = format!("original{}", capitalised(function));
            if rename(
                &package.join(file),
                &format!("func {function}("),
                &format!("func {original}("),
            )? {
                write!(
                    text,
                    "\nfunc {function}(args *skel.CmdArgs) error {{ return callProgram(\"{command}\", args) }}\n"
                )?;
            }
        }
    }
    for file in names_in(package)?.iter().filter(|name| name.ends_with("_test.go")) {
        let file = package.join(file);
        let cases =
            fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        if cases.contains("\npackage main\n") {
            let cases = cases.replace("(MatchError(", "(matchError(");
            let cases = cases.replace("Expect(err.Error()).To(", "told{err}.To(");
            fs::write(&file, cases).with_context(|| format!("write {}", file.display()))?;
        }
    }
    let file = package.join("programs_test.go");
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}

fn is_program_source(name: &str) -> bool {
    name.strip_suffix(".go").is_some_and(|stem| !stem.ends_with("_test"))
}

/// Renames the function whose definition begins so; gives whether there is one.
fn rename(file: &Path, begin: &str, becomes: &str) -> Result<bool> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let renamed = text.replacen(&format!("\n{begin}"), &format!("\n{becomes}"), 1);
    if renamed == text {
        return Ok(false);
    }
    fs::write(file, renamed).with_context(|| format!("write {}", file.display()))?;
    Ok(true)
}

fn capitalised(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// The names in a directory, sorted.
fn names_in(directory: &Path) -> Result<Vec<String>> {
    let read = || -> std::io::Result<Vec<String>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    let mut names = read().with_context(|| format!("list {}", directory.display()))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_of_a_plugin_become_calls_of_its_program_and_nothing_else_changes() {
        let package = tempfile::tempdir().unwrap();
        let main = package.path().join("main.go");
        fs::write(
            &main,
            "package main\n\nfunc main() { use(cmdAdd) }\n\nfunc cmdAdd(a *A) error {\n}\n",
        )
        .unwrap();
        fs::write(
            package.path().join("main_test.go"),
            "\npackage main\n\nfunc cmdDel(a *A) error {\n\tExpect(err).To(MatchError(e))\n\tExpect(err.Error()).To(Equal(e))\n}\n",
        )
        .unwrap();
        call_programs(package.path(), "bridge").unwrap();

        let main = fs::read_to_string(main).unwrap();
        assert_eq!(
            main,
            "package main\n\nfunc main() { use(cmdAdd) }\n\nfunc originalCmdAdd(a *A) error {\n}\n"
        );
        let calls = fs::read_to_string(package.path().join("programs_test.go")).unwrap();
        assert!(calls.contains("const pluginUnderTest = \"bridge\""));
        assert!(calls.contains(
            "func cmdAdd(args *skel.CmdArgs) error { return callProgram(\"ADD\", args) }"
        ));
        assert!(!calls.contains("func cmdDel("));
        let cases = fs::read_to_string(package.path().join("main_test.go")).unwrap();
        assert!(
            cases.contains("func cmdDel(a *A) error {\n\tExpect(err).To(matchError(e))\n\ttold{err}.To(Equal(e))\n}")
        );
    }

    #[test]
    fn a_directory_that_is_not_a_checkout_is_rejected() {
        let empty = tempfile::tempdir().unwrap();
        let error = Sources::find(Some(empty.path()), Path::new("go")).err().unwrap();
        assert!(error.to_string().contains("is not a checkout of the Go plugins"), "{error}");
    }
}
