//! The guide is run: each page in a scratch folder, with its files, its commands and what they print.
//!
//! In `docs/guide/*.md` a fence `yaml NAME` or `sh NAME` is a file, and a fence `console` holds commands after `$ ` and
//! what they print. A line `…` stands for any lines, `…` inside a line for any text. A command that ends in `&` is a
//! node: the page goes on when it is ready. Port 7300 stands for a free one.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

/// Ends the output of one command; the number of the command follows.
const MARK: &str = "@@ end of command ";

/// A fence of a page.
struct Fence {
    line: usize,
    info: String,
    text: String,
}

fn fences(page: &str) -> Vec<Fence> {
    let mut fences: Vec<Fence> = Vec::new();
    let mut open = false;
    for (index, line) in page.lines().enumerate() {
        match (open, line.strip_prefix("```")) {
            (false, Some(info)) => {
                fences.push(Fence { line: index + 1, info: info.to_owned(), text: String::new() });
                open = true;
            }
            (true, Some(_)) => open = false,
            (true, None) => {
                let fence = fences.last_mut().unwrap();
                fence.text.push_str(line);
                fence.text.push('\n');
            }
            (false, None) => {}
        }
    }
    assert!(!open, "a fence has no end");
    fences
}

/// A command and what it must print.
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
}

fn steps(fence: &Fence) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, line) in fence.text.lines().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: fence.line + 1 + index, command: command.to_owned(), expected: Vec::new() });
            continue;
        }
        let step = steps.last_mut().unwrap_or_else(|| panic!("line {}: output before a command", fence.line));
        if step.expected.is_empty() && step.command.ends_with('\\') {
            step.command.push('\n');
            step.command.push_str(line);
        } else {
            step.expected.push(line.to_owned());
        }
    }
    steps
}

/// Tells whether `line` is `pattern`, in which `…` stands for any text.
fn is_like(line: &str, pattern: &str) -> bool {
    match pattern.split_once('…') {
        None => line == pattern,
        Some((head, rest)) => line
            .strip_prefix(head)
            .is_some_and(|line| (0..=line.len()).any(|at| line.is_char_boundary(at) && is_like(&line[at..], rest))),
    }
}

/// Tells whether the lines are those of the patterns, in which a line `…` stands for any lines.
fn are_like(lines: &[&str], patterns: &[String]) -> bool {
    match patterns.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "…" => (0..=lines.len()).any(|at| are_like(&lines[at..], rest)),
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, lines)| is_like(line.trim_end(), first) && are_like(lines, rest))
        }
    }
}

/// The page as one script of the shell, so that variables and exit codes go from command to command.
fn script(steps: &[Step], port: u16) -> String {
    let mut script = String::from("exec 2>&1\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n");
    for (number, step) in steps.iter().enumerate() {
        match step.command.strip_suffix('&') {
            Some(node) => {
                let ready = format!("curl -fs -o /dev/null http://127.0.0.1:{port}/readyz");
                script.push_str(&format!(
                    "{node} > node-{number}.log 2>&1 &\nfor _ in $(seq 300); do {ready} && break; sleep 0.1; done\n{ready} || cat node-{number}.log\n"
                ));
            }
            None => script.push_str(&format!("{}\n", step.command)),
        }
        script.push_str(&format!("code=$?; printf '\\n{MARK}{number}\\n'; (exit $code)\n"));
    }
    script.replace("127.0.0.1:7300", &format!("127.0.0.1:{port}"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn walk(page: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide");
    let text = fs::read_to_string(root.join(page)).unwrap();
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut all = Vec::new();
    for fence in fences(&text) {
        match fence.info.split_once(' ') {
            Some((_, name)) => {
                let path = dir.path().join(name);
                fs::write(&path, fence.text.replace("127.0.0.1:7300", &format!("127.0.0.1:{port}"))).unwrap();
                if fence.info.starts_with("sh ") {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
            None if fence.info == "console" => all.extend(steps(&fence)),
            None => {}
        }
    }
    assert!(!all.is_empty(), "{page} shows no command");
    let binary = Path::new(env!("CARGO_BIN_EXE_tidegate"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), env!("PATH"));
    let output = Command::new("bash")
        .args(["-c", &script(&all, port)])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("TIDEGATE_URL", format!("http://127.0.0.1:{port}"))
        .env_remove("TIDEGATE_TOKEN")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).replace(&port.to_string(), "7300");
    let mut rest = printed.as_str();
    for (number, step) in all.iter().enumerate() {
        let end = format!("\n{MARK}{number}\n");
        let (out, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{page}:{}: no end in {rest}", step.line));
        rest = after;
        let lines: Vec<&str> = out.trim_end().lines().collect();
        assert!(
            are_like(&lines, &step.expected),
            "{page}:{}: `{}` printed\n{out}\nand the page says\n{}\n\nnode:\n{}",
            step.line,
            step.command,
            step.expected.join("\n"),
            fs::read_to_string(dir.path().join("node-0.log")).unwrap_or_default(),
        );
    }
}

#[test]
fn start_is_as_it_says() {
    walk("start.md");
}

#[test]
fn operate_is_as_it_says() {
    walk("operate.md");
}

#[test]
fn tasks_is_as_it_says() {
    walk("tasks.md");
}

#[test]
fn recover_is_as_it_says() {
    walk("recover.md");
}

#[test]
fn reply_is_as_it_says() {
    walk("reply.md");
}

#[test]
fn patterns_stand_for_what_they_should() {
    let like = |text: &str, patterns: &[&str]| {
        are_like(&text.lines().collect::<Vec<_>>(), &patterns.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>())
    };
    assert!(like("a 1 b\nc", &["a … b", "c"]) && like("a\nb\nc", &["a", "…"]) && like("", &[]));
    assert!(!like("a 1 b", &["a …c"]) && !like("a\nb", &["a"]) && !like("", &["a"]));
}
