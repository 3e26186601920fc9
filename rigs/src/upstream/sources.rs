//! A copy of upstream's sources, edited so that plugins are programs, and the programs built from
//! it.
//!
//! The edits are renames (`cmdAdd` becomes `originalCmdAdd`) and files of our own with replacements
//! (`go/`). No text of upstream is kept here.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use xtask::{go, program};

use super::suite::{Set, Suite};

/// Upstream's sources and the Go toolchain.
pub(super) struct Sources {
    directory: PathBuf,
    version: String,
    go: PathBuf,
}

/// A Go package with a test suite.
pub(super) struct Package {
    /// The plugin that it tests.
    pub(super) plugin: String,
    /// Its directory within the sources.
    directory: PathBuf,
}

/// Suites and plugins, built.
pub(super) struct Prepared {
    pub(super) suites: Vec<Suite>,
    /// Programs that the cases use beside plugins.
    pub(super) tools: PathBuf,
    theirs: PathBuf,
    ours: PathBuf,
}

impl Prepared {
    pub(super) fn plugins(&self, set: Set) -> &Path {
        match set {
            Set::Theirs => &self.theirs,
            Set::Ours => &self.ours,
        }
    }
}

/// Parts of the sources that are needed for building.
const COPIED: [&str; 4] = ["go.mod", "go.sum", "pkg", "plugins"];

/// Commands of a plugin, and upstream's functions for them.
const COMMANDS: [(&str, &str); 5] = [
    ("ADD", "cmdAdd"),
    ("DEL", "cmdDel"),
    ("CHECK", "cmdCheck"),
    ("GC", "cmdGC"),
    ("STATUS", "cmdStatus"),
];

/// Functions of vendored packages that start programs: file, beginning of the definition,
/// replacement.
const VENDORED: [(&str, &str, &str); 3] = [
    ("vendor/github.com/onsi/gomega/gexec/build.go", "func Build(", "func originalBuild("),
    ("vendor/github.com/onsi/gomega/gexec/session.go", "func Start(", "func originalStart("),
    (
        "vendor/github.com/containernetworking/cni/pkg/invoke/raw_exec.go",
        "func (e *RawExec) ExecPlugin(",
        "func (e *RawExec) originalExecPlugin(",
    ),
];

/// Assumptions of single cases: file, text, replacement.
const CASES: [(&str, &str, &str); 3] = [
    // They expect iptables without asking for it, since it is upstream's default.
    (
        "plugins/meta/portmap/portmap_integ_test.go",
        "\"type\": \"portmap\",",
        "\"type\": \"portmap\", \"backend\": \"iptables\",",
    ),
    // Any link works, and no kernel at hand has both dummy links and iptables.
    ("plugins/meta/firewall/firewall_iptables_test.go", "&netlink.Dummy{", "&netlink.Ifb{"),
    // A program needs the address of the bus.
    (
        "plugins/meta/firewall/firewall_firewalld_test.go",
        "testConn = conn\n",
        "testConn = conn\nsystemBus = busAddr\n",
    ),
];

/// Our files, and their paths in the copy.
const ADDED: [(&str, &str); 2] = [
    ("vendor/github.com/onsi/gomega/gexec/programs.go", include_str!("go/gexec.go")),
    (
        "vendor/github.com/containernetworking/cni/pkg/invoke/programs.go",
        include_str!("go/invoke.go"),
    ),
];

/// Our file for each plugin's package, with the functions that replace the renamed ones.
const CALLS: &str = include_str!("go/commands.go");

impl Sources {
    /// Finds the checkout that is named, or that the environment names, or else the module's
    /// source.
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
                "upstream's tests need a Go toolchain (https://go.dev/dl; see --go) or a checkout \
                 (see --sources)",
            )?;
            (source, go::PLUGINS.version.to_owned())
        };
        Ok(Self { directory: fs::canonicalize(directory)?, version, go: go.to_path_buf() })
    }

    /// Version of the sources.
    pub(super) fn version(&self) -> String {
        format!("containernetworking/plugins {}", self.version)
    }

    /// Version of the toolchain.
    pub(super) fn go_version(&self) -> Result<String> {
        Ok(program::capture(go::command(&self.go).arg("version"))?.trim().to_owned())
    }

    /// The packages of plugins that have tests.
    pub(super) fn packages(&self) -> Result<Vec<Package>> {
        let mut packages = Vec::new();
        for kind in ["main", "ipam", "meta"] {
            let parent = Path::new("plugins").join(kind);
            for plugin in names_in(&self.directory.join(&parent))? {
                let directory = parent.join(&plugin);
                let files = names_in(&self.directory.join(&directory))?;
                if files.iter().any(|file| file.ends_with("_test.go")) {
                    packages.push(Package { plugin, directory });
                }
            }
        }
        Ok(packages)
    }

    /// Builds upstream's plugins unchanged, and the test suites in an edited copy.
    pub(super) fn prepare(
        &self,
        scratch: &Path,
        packages: &[Package],
        ours: &Path,
    ) -> Result<Prepared> {
        let [copy, theirs, tools, programs] =
            ["sources", "theirs", "tools", "suites"].map(|name| scratch.join(name));
        fs::create_dir(&copy)?;
        let copied = COPIED.map(|name| self.directory.join(name));
        // Go's module cache is read-only, including the modes of its files.
        let mut cp = Command::new("cp");
        cp.args(["--recursive", "--no-preserve=mode"]).args(copied).arg(&copy);
        program::capture(&mut cp).context("copy the sources")?;
        // Some edits are in dependencies.
        program::capture(go::command(&self.go).args(["mod", "vendor"]).current_dir(&copy))
            .context("copy the dependencies")?;
        self.build(&copy, &["build"], &theirs, &["./plugins/...".to_owned()])?;
        let echo = ["server", "client"].map(|name| format!("./pkg/testutils/echo/{name}"));
        self.build(&copy, &["build"], &tools, &echo)?;

        for (file, begin, becomes) in VENDORED {
            let renamed = rename(&copy.join(file), begin, becomes)?;
            ensure!(renamed, "upstream's {file} no longer contains `{begin}`");
        }
        for (file, text, becomes) in CASES {
            let cases = fs::read_to_string(copy.join(file))?;
            ensure!(cases.contains(text), "upstream's {file} no longer contains `{}`", text.trim());
            fs::write(copy.join(file), cases.replace(text, becomes))?;
        }
        for (file, text) in ADDED {
            fs::write(copy.join(file), text)?;
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
        fs::create_dir_all(into)?;
        let mut go = go::command(&self.go);
        go.args(command).args(["-mod=vendor", "-trimpath", "-o"]).arg(into.join("")).args(packages);
        go.current_dir(directory).env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
        program::capture(&mut go).map(drop)
    }
}

/// Makes the command functions of a plugin's package start the program, and the cases accept its
/// error messages.
fn call_programs(package: &Path, plugin: &str) -> Result<()> {
    let mut text = format!("{CALLS}\nconst pluginUnderTest = \"{plugin}\"\n");
    for name in names_in(package)? {
        let file = package.join(&name);
        if file.extension().is_none_or(|extension| extension != "go") {
            continue;
        }
        if name.ends_with("_test.go") {
            let cases = fs::read_to_string(&file)?;
            if cases.contains("\npackage main\n") {
                let cases = cases.replace("(MatchError(", "(matchError(");
                fs::write(&file, cases.replace("Expect(err.Error()).To(", "told{err}.To("))?;
            }
            continue;
        }
        for (command, function) in COMMANDS {
            let original = function.replacen("cmd", "func originalCmd", 1) + "(";
            if rename(&file, &format!("func {function}("), &original)? {
                let call = format!("return callProgram(\"{command}\", args)");
                writeln!(text, "\nfunc {function}(args *skel.CmdArgs) error {{ {call} }}")?;
            }
        }
    }
    Ok(fs::write(package.join("programs_test.go"), text)?)
}

/// Renames the function whose definition has this beginning; returns whether it exists.
fn rename(file: &Path, begin: &str, becomes: &str) -> Result<bool> {
    let text = fs::read_to_string(file)?;
    let renamed = text.replacen(&format!("\n{begin}"), &format!("\n{becomes}"), 1);
    let exists = renamed != text;
    if exists {
        fs::write(file, renamed)?;
    }
    Ok(exists)
}

/// The names in a directory, sorted.
fn names_in(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_a_plugin_become_calls_of_its_program_and_nothing_else_changes() {
        let package = tempfile::tempdir().unwrap();
        let [main, test] = ["main.go", "main_test.go"].map(|name| package.path().join(name));
        let before =
            "package main\n\nfunc main() { use(cmdAdd) }\n\nfunc cmdAdd(a *A) error {\n}\n";
        fs::write(&main, before).unwrap();
        let before = "\npackage main\n\nfunc cmdDel(a *A) error {\n\tExpect(err).To(MatchError(e))\n\
                      \tExpect(err.Error()).To(Equal(e))\n}\n";
        fs::write(&test, before).unwrap();
        call_programs(package.path(), "bridge").unwrap();

        assert_eq!(
            fs::read_to_string(main).unwrap(),
            "package main\n\nfunc main() { use(cmdAdd) }\n\nfunc originalCmdAdd(a *A) error {\n}\n"
        );
        let calls = fs::read_to_string(package.path().join("programs_test.go")).unwrap();
        assert!(calls.contains("const pluginUnderTest = \"bridge\""));
        let call = "func cmdAdd(args *skel.CmdArgs) error { return callProgram(\"ADD\", args) }";
        assert!(calls.contains(call) && !calls.contains("func cmdDel("), "{calls}");
        let cases = fs::read_to_string(test).unwrap();
        let after = "func cmdDel(a *A) error {\n\tExpect(err).To(matchError(e))\n\ttold{err}.To(Equal(e))\n}";
        assert!(cases.contains(after), "{cases}");
    }

    #[test]
    fn a_directory_that_is_not_a_checkout_is_rejected() {
        let empty = tempfile::tempdir().unwrap();
        let error = Sources::find(Some(empty.path()), Path::new("go")).err().unwrap();
        assert!(error.to_string().contains("is not a checkout of the Go plugins"), "{error}");
    }
}
