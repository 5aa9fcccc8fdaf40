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

/// Prints rows in columns; the first row is the head.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(format!("| {} |", cells.join(" | ")));
        if number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            line(format!("|-{}-|", rule.join("-|-")));
        }
    }
}

/// Shows a number with few digits: 1.23, 45.6, 789, 12.3k, 4.56M.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.0, 1.234, 45.67, 789.1, 9_999.0, 12_345.0, 4_560_000.0].map(short);
        assert_eq!(shown, ["0.00", "1.23", "45.7", "789", "9999", "12.3k", "4.56M"]);
    }
}
