//! The only place of this program that writes to the terminal.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the door to the terminal")]

/// Prints a line of the answer.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints a line that says what went wrong, or how far a long step is.
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}
