//! The only place of this program that writes to the terminal.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the door to the terminal")]

/// Prints a line of the answer.
pub(crate) fn line(text: impl AsRef<str>) {
    println!("{}", text.as_ref());
}

/// Says how far a long step is.
pub(crate) fn step(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}
