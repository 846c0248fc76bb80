//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::scenarios::Scenario;

/// Runs servers between real processes over NIXL, with restarts, abandoned offers, partitions and exits, and says what
/// fails and what grows. The exit code is 1 if anything does.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask soak", args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// At most two minutes in all
    #[arg(long, conflicts_with = "hours")]
    pub(crate) quick: bool,
    /// How long all scenarios take together [default: 1]
    #[arg(long, value_name = "N", value_parser = hours)]
    hours: Option<f64>,
    /// Where the report goes
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Run only this scenario; may be repeated
    #[arg(long, value_enum, value_name = "NAME")]
    scenario: Vec<Scenario>,
    /// Run only variants whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) variant: Option<String>,
    /// The length of the first silence of each partition [default: 1 s]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    silence: Option<Duration>,
    /// Makes the same choices again [default: another one each time]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Role {
    /// One of the processes; the soak test starts them itself
    #[command(hide = true)]
    Node,
}

impl Args {
    /// None stands for the quick run.
    pub(crate) fn duration(&self) -> Option<Duration> {
        (!self.quick).then(|| Duration::from_secs_f64(self.hours.unwrap_or(1.0) * 3600.0))
    }

    /// The first silence, unless it is a second.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.silence
    }

    pub(crate) fn scenarios(&self) -> &[Scenario] {
        if self.scenario.is_empty() { Scenario::value_variants() } else { &self.scenario }
    }
}

fn hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if hours.is_finite() && hours > 0.0 && hours < 10_000.0 => Ok(hours),
        _ => Err("give a positive number of hours".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=100_000) => Ok(Duration::from_secs(seconds)),
        _ => Err("give a number of seconds from 1 to 100,000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_length_is_an_hour_unless_told_otherwise() {
        let parse = |line: &[&str]| Args::try_parse_from(line);
        assert_eq!(parse(&["soak"]).unwrap().duration(), Some(Duration::from_secs(3600)));
        assert_eq!(parse(&["soak", "--quick"]).unwrap().duration(), None);
        let half = parse(&["soak", "--hours", "0.5"]).unwrap();
        assert_eq!(half.duration(), Some(Duration::from_secs(1800)));
        for wrong in ["0", "-1", "inf", "many"] {
            assert!(parse(&["soak", "--hours", wrong]).is_err(), "{wrong}");
        }
        assert!(parse(&["soak", "--quick", "--hours", "1"]).is_err());
    }

    #[test]
    fn the_first_silence_is_as_long_as_told() {
        let parse = |seconds| Args::try_parse_from(["soak", "--silence", seconds]);
        assert_eq!(parse("1000").unwrap().silence(), Some(Duration::from_secs(1000)));
        for wrong in ["0", "1.5", "-1", "100001"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn scenarios_are_chosen_by_name() {
        let args = Args::try_parse_from(["soak", "--scenario", "fresh", "--scenario", "exits"]);
        assert_eq!(args.unwrap().scenarios(), [Scenario::Fresh, Scenario::Exits]);
        assert_eq!(Args::try_parse_from(["soak"]).unwrap().scenarios().len(), 7);
    }
}
