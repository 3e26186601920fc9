//! `cargo xtask order`: writes `order.ld`, which puts what a call runs into one place of the program.
//!
//! A program is read from disk, and mapped, some sixteen pages at a time. The compiler puts functions where they come:
//! what VERSION runs, 60 kB, was spread over 20 such pieces, what an ADD of bridge runs over 37. The linker can sort them
//! by name. The names come from callgrind, which sees every function that the operations of the bench run. In a name
//! stands a hash of each crate with its version; the file has a `*` there, so that it is true for the next version too. A
//! function that is no longer there does no harm, and one that is new goes where it went before: the file ages slowly.
//! The bench shows it, by the start of a process.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    call::Call,
    cases::{self, Case, Side},
    world::{Programs, World},
};
use xtask::{dist, packages};

/// The task.
pub(crate) fn run() -> Result<ExitCode> {
    packages::ensure("the order of the program's text", packages::FOR_ORDER)?;
    let rscni = dist::build_unstripped("rscni-cli", "rscni")?;
    let programs =
        Programs { rscni, peer: Vec::new(), floor: None, empty: Vec::new(), runtime: None };
    let world = World::enter(&programs)?;
    let file = world.lab.dir().join("callgrind.out");
    // That of VERSION first.
    let mut profiles = Vec::new();
    let mut profile = |call: &Call| -> Result<Value> {
        let answer = call.profiled(&file)?;
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        profiles.push(functions(&text));
        Ok(answer)
    };
    profile(&world.version(Side::Ours))?;
    for case in cases::ALL.iter().chain(&cases::CHAINED) {
        profile_case(&world, case, &mut profile).with_context(|| format!("watch {}", case.name))?;
    }
    let functions = in_order(&profiles);
    ensure!(functions.len() > 100, "callgrind has seen {} functions only", functions.len());
    let order = dist::order_file();
    std::fs::write(&order, script(&functions))
        .with_context(|| format!("write {}", order.display()))?;
    println!("{}: {} functions of {} operations", order.display(), functions.len(), profiles.len());
    Ok(ExitCode::SUCCESS)
}

/// ADD and DEL of the first container and of another one, which does not find the host as the first one did.
fn profile_case(
    world: &World,
    case: &Case,
    profile: &mut dyn FnMut(&Call) -> Result<Value>,
) -> Result<()> {
    let mut held = Vec::new();
    for number in 0..2 {
        let on = world.attachment_of(case, number);
        let before = world.prepare(case, Side::Ours, &on)?;
        let answer = profile(&world.add(case, Side::Ours, &on, &before)?)?;
        held.push((on, answer));
    }
    for (on, answer) in held.iter().rev() {
        profile(&world.del(case, Side::Ours, on, answer)?)?;
        world.restore(case, Side::Ours, on)?;
    }
    Ok(())
}

/// The functions that a profile names, as patterns of the linker.
fn functions(profile: &str) -> BTreeSet<String> {
    let named = profile.lines().filter_map(|line| {
        // `fn=(12) NAME`; later ones of the same number have no name.
        let (_, name) =
            line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn="))?.split_once(' ')?;
        // A recursive one is followed by how deep it was.
        name.split('\'').next()
    });
    named.filter(|name| name.starts_with("_R")).map(pattern).collect()
}

/// The mangled name without what changes from version to version: hashes of crates, `Cs1a2B3c_`, and numbers at the end.
fn pattern(name: &str) -> String {
    let (name, is_numbered) = name.split_once('.').map_or((name, false), |(name, _)| (name, true));
    let mut pattern = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("Cs") {
        let (before, from) = rest.split_at(at + "Cs".len());
        pattern.push_str(before);
        let hash = from.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(from.len());
        rest = from;
        if from[hash..].starts_with('_') {
            pattern.push('*');
            rest = &from[hash..];
        }
    }
    pattern + rest + if is_numbered { ".*" } else { "" }
}

/// What VERSION runs, which is the start of every call; then what most operations run.
fn in_order(profiles: &[BTreeSet<String>]) -> Vec<&str> {
    let mut used_by: BTreeMap<&str, usize> = BTreeMap::new();
    for function in profiles.iter().flatten() {
        *used_by.entry(function).or_default() += 1;
    }
    let is_of_version =
        |function: &str| profiles.first().is_some_and(|version| version.contains(function));
    let mut functions: Vec<_> = used_by.into_iter().collect();
    functions.sort_by_key(|(function, operations)| Reverse((is_of_version(function), *operations)));
    functions.into_iter().map(|(function, _)| function).collect()
}

/// The C library comes first, whose functions have no sections of their own.
fn script(functions: &[&str]) -> String {
    let mut lines = vec![
        "/* Written by `cargo xtask order`: what the plugins run, side by side. See order.rs. */"
            .to_owned(),
        "SECTIONS { .text.in_use : {".to_owned(),
        "*crt1.o(.text .text.*) *libc.a:*(.text .text.*) *(.text.main)".to_owned(),
    ];
    lines.extend(
        functions.iter().map(|function| format!("*(.text.{function} .text.unlikely.{function})")),
    );
    lines.push("} } INSERT BEFORE .text;\n".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_loses_the_hashes_of_its_crates_and_the_number_at_its_end() {
        let name = "_RNvXsZ_NtCs2Nb3gJ4iU0I_5alloc6stringNtB5_6StringNtNtCs7BliBxkEZsN_4core3fmt5Write9write_str";
        let wanted = "_RNvXsZ_NtCs*_5alloc6stringNtB5_6StringNtNtCs*_4core3fmt5Write9write_str";
        assert_eq!(pattern(name), wanted);
        assert_eq!(pattern(&format!("{name}.24")), format!("{wanted}.*"));
        assert_eq!(pattern("_RNvNtC5rscni6Cs3run"), "_RNvNtC5rscni6Cs3run");
    }

    #[test]
    fn a_profile_names_each_function_once_and_those_of_c_are_left_where_they_are() {
        let profile = "events: Ir\nfn=(1) main\n16 3\ncfn=(2) _RNvCs1_5rscni3run\nfn=(2)\ncfn=(3) _RNvCs1_5rscni4walk'2\n";
        assert_eq!(
            Vec::from_iter(functions(profile)),
            ["_RNvCs*_5rscni3run", "_RNvCs*_5rscni4walk"]
        );
    }

    #[test]
    fn what_version_runs_comes_first_and_then_what_more_operations_run() {
        let profiles = ["_Rz", "_Ra _Rb", "_Rb _Rz", "_Rb"]
            .map(|run| run.split(' ').map(str::to_owned).collect());
        let functions = in_order(&profiles);
        assert_eq!(functions, ["_Rz", "_Rb", "_Ra"]);
        let text = script(&functions);
        assert!(text.find(".text._Rb ").unwrap() < text.find(".text._Ra ").unwrap(), "{text}");
        assert!(text.ends_with("INSERT BEFORE .text;\n"));
    }
}
