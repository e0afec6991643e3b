//! Wrong usage, told in one line.

use std::{io, process::ExitCode};

use clap::error::ErrorKind;

use crate::failure::{one_line, tell};

/// Prints what clap has to say: help and version as they are, an error as one line.
pub(crate) fn explain(error: &clap::Error, command: &clap::Command) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(2),
            _ => ExitCode::SUCCESS,
        };
    }
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    tell(&summary(&error.render().to_string(), &subcommands(command, words)));
    ExitCode::from(2)
}

/// How paragraphs begin that `--help` shows, or that point to it.
const SHOWN_BY_HELP: [&str; 3] = ["For more information", "Commands:", "Options:"];

/// The subcommands that the words begin with: not every error of clap's says whose usage it is about.
fn subcommands(mut command: &clap::Command, words: impl Iterator<Item = String>) -> Vec<String> {
    let mut named = Vec::new();
    for word in words {
        let Some(subcommand) = command.find_subcommand(&word) else { break };
        command = subcommand;
        named.push(word);
    }
    named
}

/// Clap's paragraphs without the usage, which `--help` shows.
fn summary(rendered: &str, commands: &[String]) -> String {
    let mut parts = Vec::new();
    let help = ["see `counterfoil", &commands.join(" "), "--help`"].join(" ").replace("  ", " ");
    for paragraph in rendered.split("\n\n").map(one_line) {
        if !paragraph.starts_with("Usage: ")
            && !paragraph.is_empty()
            && !SHOWN_BY_HELP.iter().any(|start| paragraph.starts_with(start))
        {
            parts.push(paragraph.strip_prefix("error: ").unwrap_or(&paragraph).to_owned());
        }
    }
    parts.push(help);
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_explained_in_one_line_with_what_was_meant() {
        let rendered = "error: unexpected argument '--sapce' found\n\n  tip: a similar argument exists: '--space'\n\n\
                        Usage: counterfoil cert node --space <SPACE> <STORE>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            summary(rendered, &["cert".to_owned(), "node".to_owned()]),
            "unexpected argument '--sapce' found; tip: a similar argument exists: '--space'; \
             see `counterfoil cert node --help`"
        );
    }

    #[test]
    fn a_missing_subcommand_is_not_answered_with_the_whole_help() {
        let rendered =
            "Make certificates\n\nUsage: counterfoil cert <COMMAND>\n\nCommands:\n  ca  Make\n\nOptions:\n  -h\n";
        assert_eq!(summary(rendered, &["cert".to_owned()]), "Make certificates; see `counterfoil cert --help`");
    }

    #[test]
    fn the_subcommands_are_those_at_the_beginning() {
        let command =
            clap::Command::new("x").subcommand(clap::Command::new("cert").subcommand(clap::Command::new("ca")));
        let named = |words: &[&str]| subcommands(&command, words.iter().map(|word| (*word).to_owned()));
        assert_eq!(named(&["cert", "ca", "cert"]), ["cert", "ca"]);
        assert_eq!(named(&["cert", "dir", "ca"]), ["cert"]);
        assert!(named(&["x"]).is_empty());
    }

    #[test]
    fn an_error_outside_of_all_commands_points_to_the_help_of_all() {
        assert_eq!(
            summary("error: unrecognized subcommand 'x'\n\nFor more information, try '--help'.", &[]),
            "unrecognized subcommand 'x'; see `counterfoil --help`"
        );
    }
}
