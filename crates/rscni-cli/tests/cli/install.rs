//! `rscni install`.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::ScopedJoinHandle,
};

use crate::fixture::{CommandOutput, RSCNI, run};

fn install(dir: &Path, options: &[&str]) -> CommandOutput {
    run(Command::new(RSCNI).arg("install").arg(dir).args(options))
}

/// Returns the expected entries, without `rscni` itself.
fn entries() -> Vec<&'static str> {
    rscni_plugins::ALL.iter().map(|plugin| plugin.name).chain(["cnitool"]).collect()
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Calls VERSION of an entry, or `cnitool --version`.
fn ask(dir: &Path, name: &str) -> Result<(), String> {
    let mut command = Command::new(dir.join(name));
    if name == "cnitool" {
        command.arg("--version");
    } else {
        command.env("CNI_COMMAND", "VERSION");
    }
    match command.stdin(Stdio::null()).output() {
        Ok(out) if out.status.success() && !out.stdout.is_empty() => Ok(()),
        other => Err(format!("{name}: {other:?}")),
    }
}

#[test]
fn entries_are_relative_links_to_the_program_and_work() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("opt/cni/bin");
    let said = install(&dir, &[]).succeeded().stdout;
    let mut expected: Vec<_> = entries().into_iter().map(String::from).collect();
    expected.push("rscni".into());
    expected.sort();
    assert_eq!(names_in(&dir), expected);
    assert_eq!(fs::read(dir.join("rscni")).unwrap(), fs::read(RSCNI).unwrap());
    assert_eq!(fs::metadata(dir.join("rscni")).unwrap().permissions().mode() & 0o777, 0o755);
    for name in entries() {
        assert_eq!(fs::read_link(dir.join(name)).unwrap(), Path::new("rscni"), "{name}");
        assert_eq!(ask(&dir, name), Ok(()));
        assert!(said.contains(&format!("{}: a link", dir.join(name).display())), "{said}");
    }
}

#[test]
fn files_are_replaced_only_under_names_of_entries() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    for name in ["cnitool", "rscni", "calico"] {
        fs::write(dir.join(name), "old").unwrap();
    }
    fs::write(dir.join("target"), "of a link").unwrap();
    fs::remove_file(dir.join("rscni")).unwrap();
    symlink("target", dir.join("rscni")).unwrap();
    fs::write(dir.join(".rscni-install-bridge"), "partial").unwrap();
    let said = install(dir, &[]).succeeded().stdout;
    assert!(said.contains("replaces another file") && said.contains("interrupted"), "{said}");
    assert_eq!(ask(dir, "cnitool"), Ok(()));
    assert_eq!(fs::read_to_string(dir.join("calico")).unwrap(), "old");
    assert_eq!(fs::read_to_string(dir.join("target")).unwrap(), "of a link");
    assert!(names_in(dir).iter().all(|name| !name.starts_with('.')));

    // The installed program may install into its own directory.
    let again = run(Command::new(dir.join("rscni")).arg("install").arg(dir)).succeeded();
    assert!(again.stdout.contains("already"), "{}", again.stdout);
    assert_eq!(ask(dir, "cnitool"), Ok(()));
}

/// Stops the other threads, also if the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn entries_work_at_all_times_while_they_are_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    install(dir, &[]).succeeded();
    // Only some entries, since the loop below copies the whole program for each.
    let some = || entries().into_iter().step_by(8);
    let (done, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask_until_done = &|name| {
        while !done.load(Ordering::Relaxed) {
            ask(dir, name)?;
            calls.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<(), String>(())
    };
    std::thread::scope(|scope| {
        let askers: Vec<_> = some().map(|name| scope.spawn(move || ask_until_done(name))).collect();
        let guard = Done(&done);
        for _ in 0..10 {
            // Replaces each entry by a regular file, like that of another project.
            for name in some() {
                let script = "cp \"$0/rscni\" \"$0/new-$1\" && mv \"$0/new-$1\" \"$0/$1\"";
                run(Command::new("sh").args(["-c", script]).arg(dir).arg(name)).succeeded();
            }
            install(dir, &[]).succeeded();
            let before = calls.load(Ordering::Relaxed);
            while calls.load(Ordering::Relaxed) < before + 2
                && !askers.iter().any(ScopedJoinHandle::is_finished)
            {
                std::thread::yield_now();
            }
        }
        drop(guard);
        for asker in askers {
            assert_eq!(asker.join().unwrap(), Ok(()));
        }
    });
}

#[test]
fn directory_under_an_entry_name_stops_the_install() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("cnitool")).unwrap();
    let out = install(temp.path(), &[]);
    assert_eq!(out.status, 1);
    assert!(out.stderr.contains("cnitool is a directory"), "{}", out.stderr);
    assert_eq!(names_in(temp.path()), ["cnitool"]);
}

#[test]
fn only_selects_entries() {
    let temp = tempfile::tempdir().unwrap();
    install(temp.path(), &["--only", "cnitool"]).succeeded();
    assert_eq!(names_in(temp.path()), ["cnitool", "rscni"]);
    let out = install(temp.path(), &["--only", "cnitool,cilium"]);
    assert_eq!(out.status, 1);
    assert!(out.stderr.contains("--only cilium"), "{}", out.stderr);
}

#[test]
fn unwritable_directory_is_reported_with_advice() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("file"), "").unwrap();
    let out = install(&temp.path().join("file"), &[]);
    assert_eq!(out.status, 1);
    assert!(
        out.stderr.contains("must be a directory") && out.stderr.contains("(code 5)"),
        "{}",
        out.stderr
    );

    let script = "mount -t tmpfs -o ro tmpfs \"$1\" && exec \"$0\" install \"$1\"";
    let out =
        run(Command::new("unshare").args(["-rm", "sh", "-c", script, RSCNI]).arg(temp.path()));
    assert_eq!(out.status, 1);
    assert!(out.stderr.contains("read-only: choose"), "{}", out.stderr);
}

/// Calls VERSION of a program.
fn version_of(program: &Path) -> CommandOutput {
    run(Command::new(program).env("CNI_COMMAND", "VERSION"))
}

#[test]
fn as_links_to_the_entry_of_the_plugin() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let aliases = ["--as", "cnv-bridge=bridge", "--as", "uplink=ptp", "--as", "edge-static=bridge"];
    let said = install(dir, &aliases).succeeded().stdout;
    assert_eq!(names_in(dir).len(), entries().len() + 4);
    for (name, plugin) in [("cnv-bridge", "bridge"), ("uplink", "ptp"), ("edge-static", "bridge")] {
        assert_eq!(fs::read_link(dir.join(name)).unwrap(), Path::new(plugin));
        assert!(said.contains(&format!("{}: a link to {plugin}", dir.join(name).display())));
        assert_eq!(ask(dir, name), Ok(()));
        let about = run(&mut Command::new(dir.join(name))).succeeded().stderr;
        assert!(about.starts_with(&format!("CNI {plugin} plugin ")), "{name}: {about}");
    }
    let again = install(dir, &aliases).succeeded().stdout;
    assert!(again.contains("uplink: already a link to ptp"), "{again}");
}

#[test]
fn as_without_the_plugin_entry_requires_its_name_as_suffix() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::write(dir.join("bridge"), "of another project").unwrap();
    install(dir, &["--only", "", "--as", "cnv-bridge=bridge", "--as", "edge-bridge=bridge"])
        .succeeded();
    assert_eq!(names_in(dir), ["bridge", "cnv-bridge", "edge-bridge", "rscni"]);
    assert_eq!(fs::read_to_string(dir.join("bridge")).unwrap(), "of another project");
    for name in ["cnv-bridge", "edge-bridge"] {
        assert_eq!(fs::read_link(dir.join(name)).unwrap(), Path::new("rscni"));
        assert_eq!(ask(dir, name), Ok(()));
    }
    let out = install(dir, &["--only", "cnitool", "--as", "uplink=bridge"]);
    assert_eq!(out.status, 1);
    assert!(out.stderr.contains("add bridge to --only"), "{}", out.stderr);
    assert!(!dir.join("cnitool").exists());
}

#[test]
fn as_rejects_invalid_names() {
    let temp = tempfile::tempdir().unwrap();
    for (value, problem) in [
        ("uplink", "NAME=PLUGIN"),
        ("uplink=calico", "there is no plugin \"calico\""),
        ("ptp=bridge", "stands for the plugin ptp"),
        ("cnv-ptp=bridge", "stands for the plugin ptp"),
        ("a/b=bridge", "cannot be the file name"),
        (".hidden=bridge", "cannot be the file name"),
        ("rscni=bridge", "cannot be the file name"),
        ("=bridge", "cannot be the file name"),
    ] {
        let out = install(temp.path(), &["--as", value]);
        assert_eq!(out.status, 2, "{value}");
        assert!(out.stderr.contains(problem), "{value}: {}", out.stderr);
    }
    let out = install(temp.path(), &["--as", "x=ptp", "--as", "x=bridge"]);
    assert!(out.status == 1 && out.stderr.contains("contradict"), "{}", out.stderr);
    assert_eq!(names_in(temp.path()), [""; 0]);
}

#[test]
fn copies_and_links_under_aliases_run_the_plugin() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let copy = |name: &str| fs::copy(RSCNI, dir.join(name)).unwrap();
    copy("buildkit-cni-host-local");
    copy("edge-loopback");
    symlink("edge-loopback", dir.join("lo-of-pods")).unwrap();
    symlink(RSCNI, dir.join("tuning")).unwrap();
    symlink("./tuning", dir.join("second")).unwrap();
    symlink("second", dir.join("third")).unwrap();
    for (name, plugin) in [
        ("buildkit-cni-host-local", "host-local"),
        ("edge-loopback", "loopback"),
        ("lo-of-pods", "loopback"),
        ("second", "tuning"),
        ("third", "tuning"),
    ] {
        version_of(&dir.join(name)).succeeded();
        let about = run(&mut Command::new(dir.join(name))).succeeded().stderr;
        assert!(about.contains(&format!("CNI {plugin} plugin ")), "{name}: {about}");
    }
    // For a program in PATH, the shell sets argv[0] without a directory.
    let script = format!("PATH={}:$PATH; CNI_COMMAND=VERSION third", dir.display());
    run(Command::new("sh").args(["-c", &script])).succeeded();
    // The caller chooses argv[0].
    let mut other = Command::new(dir.join("tuning"));
    run(other.arg0("anything").env("CNI_COMMAND", "VERSION")).succeeded();

    // Neither a copy under an unknown name nor a link to it selects a plugin.
    copy("mine");
    symlink("mine", dir.join("yours")).unwrap();
    for name in ["mine", "yours"] {
        let out = version_of(&dir.join(name));
        assert_eq!(out.status, 1, "{name}");
        let advice = format!("rscni install DIR --as {name}=PLUGIN");
        assert!(out.json()["details"].as_str().unwrap().contains(&advice), "{out:?}");
    }
}

#[test]
fn alias_with_arguments_runs_as_rscni() {
    let temp = tempfile::tempdir().unwrap();
    let program = temp.path().join("rscni-static");
    symlink(RSCNI, &program).unwrap();
    let listed = run(Command::new(&program).arg("plugins")).succeeded();
    assert!(listed.stdout.contains("host-local"), "{listed:?}");
    version_of(&program).succeeded();
}
