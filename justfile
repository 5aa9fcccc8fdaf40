# A menu. Every line works without just: copy it.

# list the menu
default:
    @just --list

# start the example: HTTP in, durable, webhook out
quickstart:
    ./quickstart

# format, lints, style: before every commit
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo xtask tidy

# every test, or those that match
test *FILTER:
    ./test {{FILTER}}

# write the generated pages again
docs:
    cargo xtask docs

# sizes, dependencies, build times
measure:
    cargo xtask measure --build

# licences and banned crates (needs cargo-deny)
deny:
    cargo deny check licenses bans sources

# what a change must pass
all:
    .ci/run
