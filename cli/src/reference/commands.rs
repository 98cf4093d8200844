//! Every command with its arguments, out of clap.

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::{cell, made_from};
use crate::args::Cli;

pub fn page() -> String {
    let mut program = Cli::command();
    program.build();
    let mut page = made_from("the command line in `cli/src`");
    page += "\n# Commands\n\nEvery command takes `--json` and then prints one JSON object a line; `--help` says all of this in the terminal.\n";
    page += "Exit status: 0, 1 when it failed or a coordinator refused it, 2 when the command or the job file is wrong, 130 when it was stopped.\n";
    for command in shown(&program) {
        describe(command, 2, &mut page);
    }
    page
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    let subcommands = command.get_subcommands();
    subcommands.filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn describe(command: &Command, level: usize, page: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    *page += &format!("\n{} {name}\n", "#".repeat(level));
    let about = command.get_long_about().or(command.get_about());
    if let Some(about) = about {
        let paragraphs: Vec<String> = about.to_string().split("\n\n").map(plain).collect();
        *page += &format!("\n{}.\n", paragraphs.join(".\n\n").trim_end_matches('.'));
    }
    let usage = command.clone().render_usage().to_string();
    let usage: Vec<&str> = usage
        .trim_start_matches("Usage:")
        .split_whitespace()
        .collect();
    *page += &format!("\n```text\n{}\n```\n", usage.join(" "));
    let own = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        !arg.is_hide_set() && !arg.is_global_set() && !["help", "version"].contains(&id)
    };
    let arguments: Vec<&Arg> = command.get_arguments().filter(own).collect();
    if !arguments.is_empty() {
        *page += "\n| argument | |\n| --- | --- |\n";
        for argument in arguments {
            *page += &format!(
                "| `{}` | {} |\n",
                cell_code(&spelled(argument)),
                meaning(argument)
            );
        }
    }
    for command in shown(command) {
        describe(command, level + 1, page);
    }
}

/// A paragraph in one line.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('<', "&lt;")
}

/// Within backticks nothing but the separator of cells is escaped.
fn cell_code(text: &str) -> String {
    text.replace('|', "\\|")
}

/// `-f, --follow`, `--store URL` or `<JOB>`.
fn spelled(argument: &Arg) -> String {
    let values: Vec<String> = argument.get_value_names().map_or_else(Vec::new, |names| {
        names.iter().map(ToString::to_string).collect()
    });
    let values = match argument.get_action() {
        ArgAction::SetTrue | ArgAction::Count => String::new(),
        _ => values.join(" "),
    };
    let mut names = Vec::new();
    names.extend(argument.get_short().map(|short| format!("-{short}")));
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    match names.is_empty() {
        true => format!("<{}>", values.trim_matches(['<', '>'])),
        false => format!("{} {values}", names.join(", "))
            .trim_end()
            .to_string(),
    }
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help());
    let mut text = help.map_or_else(String::new, |help| cell(&help.to_string()));
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return text;
    }
    let possible = argument.get_possible_values().into_iter();
    let possible: Vec<_> = possible.map(|it| quoted(it.get_name())).collect();
    if !possible.is_empty() {
        text += &format!("; one of {}", possible.join(", "));
    }
    let defaults = argument.get_default_values().iter();
    let defaults: Vec<_> = defaults.map(|it| quoted(&it.to_string_lossy())).collect();
    if !defaults.is_empty() {
        text += &format!("; {} where it is left out", defaults.join(" "));
    }
    text
}

fn quoted(value: &str) -> String {
    format!("`{value}`")
}
