//! What the commands are called and what they do, for `help` and completion.
//! Calls nothing.

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// Its first word.
    pub name: &'static str,
    /// How it is written.
    pub synopsis: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// A line that can be typed as it is.
    pub example: &'static str,
}

const fn command(
    name: &'static str,
    synopsis: &'static str,
    help: &'static str,
    example: &'static str,
) -> Command {
    Command { name, synopsis, help, example }
}

/// The interpreter's own commands; those of a world come on top.
pub const COMMANDS: &[Command] = &[
    command(
        "alloc",
        "alloc NAME ORDER [GFP] [count=N] [node=N] [cpu=N]",
        "allocates blocks of 2^ORDER pages and keeps them as group NAME",
        "alloc a 3 ATOMIC count=100",
    ),
    command(
        "audit",
        "audit",
        "checks each page, list and counter of the machine against all others",
        "audit",
    ),
    command("cat", "cat PATH", "prints a file as Linux has it", "cat /proc/buddyinfo"),
    command(
        "free",
        "free NAME | NAME[I] [cpu=N]",
        "gives a group back, or one block of it",
        "free a[7]",
    ),
    command("help", "help [COMMAND]", "lists all commands, or explains one", "help alloc"),
];
