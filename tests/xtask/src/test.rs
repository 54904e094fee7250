//! `cargo xtask test`: the suites, one after another, with their times and what was skipped.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;
use crate::progress::human;
use crate::suites::{ALL, Suite};
use crate::tool::cargo;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this suite; may be given several times
    #[arg(long = "suite", value_name = "NAME", value_parser = ALL.iter().map(|suite| suite.name).collect::<Vec<_>>())]
    suites: Vec<String>,
    /// Show the suites instead of running them
    #[arg(long)]
    list: bool,
}

/// How a suite went.
struct Outcome {
    suite: &'static Suite,
    building: Duration,
    testing: Duration,
    failure: Option<String>,
    skipped: Vec<String>,
}

pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let chosen: Vec<&'static Suite> = ALL
        .iter()
        .filter(|suite| {
            options.suites.is_empty() || options.suites.iter().any(|name| name == suite.name)
        })
        .collect();
    if options.list {
        for suite in chosen {
            println!(
                "{:<8} {:>2} min  {}",
                suite.name,
                suite.budget.as_secs() / 60,
                suite.about
            );
        }
        return Ok(());
    }
    let start = Instant::now();
    let mut outcomes = Vec::new();
    for suite in chosen {
        println!(
            "\n== {}: {} (budget {})",
            suite.name,
            suite.about,
            human(suite.budget)
        );
        outcomes.push(run_suite(suite, interrupt)?);
        interrupt.check()?;
    }
    report(&outcomes, start.elapsed())
}

fn run_suite(suite: &'static Suite, interrupt: &Interrupt) -> Result<Outcome> {
    let mut outcome = Outcome {
        suite,
        building: Duration::ZERO,
        testing: Duration::ZERO,
        failure: None,
        skipped: Vec::new(),
    };
    let tests = suite
        .runs
        .iter()
        .map(|arguments| [split(arguments).0, &["--no-run"]].concat());
    let programs = suite.programs.iter().map(|arguments| arguments.to_vec());
    let built = Instant::now();
    for arguments in tests.chain(programs) {
        let status = cargo().args(arguments).status();
        if !status.context("can't start cargo")?.success() {
            outcome.failure = Some("doesn't build".to_owned());
        }
        interrupt.check()?;
    }
    outcome.building = built.elapsed();
    if outcome.failure.is_some() {
        return Ok(outcome);
    }
    for arguments in suite.runs {
        let tested = Instant::now();
        // Twice the budget is for a slow machine; more is a hang.
        let bound = (suite.budget * 2).saturating_sub(outcome.testing);
        let failure = run_tests(arguments, bound, &mut outcome.skipped, interrupt)?;
        outcome.testing += tested.elapsed();
        outcome.failure = outcome.failure.or(failure);
        interrupt.check()?;
    }
    Ok(outcome)
}

/// The arguments before and after the `--`.
fn split<'a>(arguments: &'a [&'static str]) -> (&'a [&'static str], &'a [&'static str]) {
    match arguments.iter().position(|word| *word == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[]),
    }
}

/// Runs tests and gives why they failed, if so.
fn run_tests(
    arguments: &[&'static str],
    bound: Duration,
    skipped: &mut Vec<String>,
    interrupt: &Interrupt,
) -> Result<Option<String>> {
    let (own, of_the_tests) = split(arguments);
    let mut child = cargo()
        .args(own)
        // Passing tests' output holds the reasons of what was skipped.
        .args(["--no-fail-fast", "--", "--show-output"])
        .args(of_the_tests)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A group of its own, so that it can be stopped with all its tests.
        .process_group(0)
        .spawn()
        .context("can't start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let (lines, arriving) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + bound;
    let mut filter = Filter::default();
    loop {
        match arriving.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                if let Some(reason) = line.strip_prefix("SKIP ") {
                    skipped.push(reason.to_owned());
                }
                if filter.shows(&line) {
                    println!("{line}");
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if interrupt.is_asked() => {
                stop(&mut child)?;
                return Ok(Some("interrupted".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() > end => {
                stop(&mut child)?;
                return Ok(Some(format!("stopped after {}", human(bound))));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    let status = child.wait()?;
    Ok((!status.success()).then(|| "tests failed".to_owned()))
}

/// Stops cargo and its tests; what they had raised ends with them.
fn stop(child: &mut Child) -> Result<()> {
    killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
    child.wait()?;
    Ok(())
}

/// Hides what passing tests have printed, which `--show-output` lists before the result.
#[derive(Debug, Default)]
struct Filter {
    hiding: bool,
}

impl Filter {
    fn shows(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.hiding = true,
            "failures:" => self.hiding = false,
            _ if line.starts_with("test result:") => self.hiding = false,
            _ => {}
        }
        !self.hiding
    }
}

fn report(outcomes: &[Outcome], total: Duration) -> Result<()> {
    println!(
        "\n{:<8}  {:>10}  {:>10}  {:>10}  result",
        "suite", "building", "testing", "budget"
    );
    for outcome in outcomes {
        let late = outcome.testing > outcome.suite.budget;
        let result = match &outcome.failure {
            Some(reason) => reason.as_str(),
            None if late => "passed, over its budget",
            None => "passed",
        };
        println!(
            "{:<8}  {:>10}  {:>10}  {:>10}  {result}",
            outcome.suite.name,
            human(outcome.building),
            human(outcome.testing),
            human(outcome.suite.budget)
        );
    }
    println!("total: {}", human(total));
    let skipped: Vec<&String> = outcomes
        .iter()
        .flat_map(|outcome| &outcome.skipped)
        .collect();
    if skipped.is_empty() {
        println!("nothing was skipped");
    }
    for reason in skipped {
        println!("SKIP {reason}");
    }
    let failed: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .map(|outcome| outcome.suite.name)
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_only_what_passing_tests_printed() {
        let output = "running 2 tests\ntest a ... ok\nsuccesses:\n\n---- a stdout ----\nSKIP a: no \
                      root\nfailures:\nwhy\ntest result: FAILED. 1 passed\n";
        let mut filter = Filter::default();
        let shown: Vec<&str> = output.lines().filter(|line| filter.shows(line)).collect();
        assert_eq!(
            shown,
            [
                "running 2 tests",
                "test a ... ok",
                "failures:",
                "why",
                "test result: FAILED. 1 passed"
            ]
        );
    }

    #[test]
    fn splits_at_the_dashes() {
        assert_eq!(
            split(&["test", "--", "x"]),
            (["test"].as_slice(), ["x"].as_slice())
        );
        assert_eq!(split(&["test"]), (["test"].as_slice(), [].as_slice()));
    }
}
