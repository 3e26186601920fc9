//! `cargo xtask order`: writes `order.ld`, which puts what a call runs into one place of the program.
//!
//! A program is read from disk, and mapped, some sixteen pages at a time. The compiler puts functions where they come: what
//! VERSION runs, 60 kB, was spread over 20 such pieces, what an ADD of bridge runs over 37. The linker can sort them by
//! name. The names come from callgrind, which sees every function that the operations of the bench run. In a name stands
//! a hash of each crate with its version; the file has a `*` there, so that it is true for the next version too. A function
//! that is no longer there does no harm, and one that is new goes where it went before: the file ages slowly. The
//! bench shows it, by the start of a process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use super::cases::{self, Case, Side};
use super::world::{Programs, World};
use crate::{dist, packages};

/// The task.
pub(crate) fn run() -> Result<ExitCode> {
    packages::ensure("the order of the program's text", packages::FOR_ORDER)?;
    let rscni = dist::build_unstripped("rscni-cli", "rscni")?;
    let programs = Programs { rscni, peer: Vec::new(), floor: None, empty: Vec::new(), runtime: None };
    let world = World::enter(&programs)?;
    let profile = world.lab.dir().join("callgrind.out");
    world.version(Side::Ours).profiled(&profile)?;
    let of_version = functions(&read(&profile)?);
    let mut used_by: BTreeMap<String, usize> =
        of_version.into_iter().map(|function| (function, usize::MAX / 2)).collect();
    let mut operations = 1;
    let mut on_profile = || -> Result<()> {
        operations += 1;
        for function in functions(&read(&profile)?) {
            *used_by.entry(function).or_default() += 1;
        }
        Ok(())
    };
    for case in cases::ALL.iter().chain(&cases::CHAINED) {
        profile_case(&world, case, &profile, &mut on_profile).with_context(|| format!("watch {}", case.name))?;
    }
    ensure!(used_by.len() > 100, "callgrind has seen {} functions only", used_by.len());
    std::fs::write(dist::order_file(), script(&used_by))
        .with_context(|| format!("write {}", dist::order_file().display()))?;
    println!("{}: {} functions of {operations} operations", dist::order_file().display(), used_by.len());
    Ok(ExitCode::SUCCESS)
}

/// ADD and DEL of the first container and of another one, which does not find the host as the first one did.
fn profile_case(world: &World, case: &Case, profile: &Path, on_profile: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let name: String = case.name.chars().filter(char::is_ascii_alphanumeric).collect();
    let mut held = Vec::new();
    for number in 0..2 {
        let on = world.attachment(&format!("{name}{number}"), number);
        let before = world.prepare(case, Side::Ours, &on)?;
        let answer = world.add(case, Side::Ours, &on, &before)?.profiled(profile)?;
        on_profile()?;
        held.push((on, answer));
    }
    for (on, answer) in held.iter().rev() {
        world.del(case, Side::Ours, on, answer)?.profiled(profile)?;
        on_profile()?;
        world.restore(case, Side::Ours, on)?;
    }
    Ok(())
}

fn read(profile: &Path) -> Result<String> {
    std::fs::read_to_string(profile).with_context(|| format!("read {}", profile.display()))
}

/// The functions that a profile names, as patterns of the linker.
fn functions(profile: &str) -> BTreeSet<String> {
    let named = profile.lines().filter_map(|line| {
        // `fn=(12) NAME`; later ones of the same number have no name.
        let (_, name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn="))?.split_once(' ')?;
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

/// The C library comes first, whose functions have no sections of their own; then what VERSION runs, which is the start of
/// every call; then what most operations run.
fn script(used_by: &BTreeMap<String, usize>) -> String {
    let mut functions: Vec<_> = used_by.iter().collect();
    functions.sort_by_key(|(_, operations)| std::cmp::Reverse(**operations));
    let mut lines = vec![
        "/* Written by `cargo xtask order`: what the plugins run, side by side. See order.rs. */".to_owned(),
        "SECTIONS { .text.in_use : {".to_owned(),
        "*crt1.o(.text .text.*) *libc.a:*(.text .text.*) *(.text.main)".to_owned(),
    ];
    lines.extend(functions.iter().map(|(function, _)| format!("*(.text.{function} .text.unlikely.{function})")));
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
        let profile =
            "events: Ir\nfn=(1) main\n16 3\ncfn=(2) _RNvCs1_5rscni3run\nfn=(2)\ncfn=(3) _RNvCs1_5rscni4walk'2\n";
        assert_eq!(Vec::from_iter(functions(profile)), ["_RNvCs*_5rscni3run", "_RNvCs*_5rscni4walk"]);
    }

    #[test]
    fn what_more_operations_use_comes_first() {
        let text = script(&[("_Ra".to_owned(), 1), ("_Rb".to_owned(), 3)].into());
        assert!(text.find(".text._Rb ").unwrap() < text.find(".text._Ra ").unwrap(), "{text}");
        assert!(text.ends_with("INSERT BEFORE .text;\n"));
    }
}
