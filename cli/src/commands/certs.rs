//! `perennial certs`: an authority of one's own, its certificates, and tokens for people.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use perennial_secure::{Authority, REVOKED, Role, Token, Wanted, write_new};
use serde_json::json;

use crate::output::{Output, counted};

/// Longer than any job; short enough that a lost key is of no use for ever.
const DAYS: u16 = 365;
/// In the authority's folder: what a coordinator is given with `--tokens`.
const TOKENS: &str = "tokens";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Init(InitArgs),
    Issue(IssueArgs),
    Revoke(RevokeArgs),
    Token(TokenArgs),
}

/// Make an authority: `ca.pem` for everybody, and `ca.key`, which stays where it is
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Its folder; made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Issue certificates: NAME.pem and NAME.key for each name
#[derive(Debug, clap::Args)]
pub struct IssueArgs {
    /// The authority's folder, where they go too
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Whom they name. `coordinator`, `worker`, `operator` and `viewer` are roles at the same time
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// What they are for, where the name does not say it
    #[arg(long, value_parser = ["coordinator", "worker", "operator", "viewer"])]
    role: Option<String>,
    /// A name or address at which a coordinator is reached; once for each
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// How many days they are valid
    #[arg(long, value_name = "N", default_value_t = DAYS, value_parser = clap::value_parser!(u16).range(1..))]
    days: u16,
    /// In place of the files that are there: processes that run take the new ones up
    #[arg(long)]
    replace: bool,
}

/// Take certificates back: all that were issued to these names
///
/// They are listed in the folder's `ca.crl`. Put it beside every `ca.pem`: processes that run read it again, and refuse
/// whoever shows one of them from then on. A connection that is open stays; `perennial drain` ends a worker's.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// The authority's folder
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Whom they name
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Make a token for a person, instead of a certificate: NAME.token
///
/// Its hash goes into the file `tokens` of the folder, which the coordinator is given with --tokens. Taking
/// out its line ends a token.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// The authority's folder, or any other
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Whose it is
    name: String,
    /// Whether it may look, or change what runs too
    #[arg(long, value_parser = ["view", "operate"])]
    role: String,
    /// The one job that it opens; every job where it is left out
    #[arg(long)]
    job: Option<String>,
}

pub fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Init(args) => init(&args, output),
        Command::Issue(args) => issue(&args, output),
        Command::Revoke(args) => revoke(&args, output),
        Command::Token(args) => token(&args, output),
    }
}

fn init(args: &InitArgs, output: Output) -> anyhow::Result<()> {
    Authority::init(&args.dir)?;
    let folder = args.dir.display();
    let told = json!({ "ca": args.dir.join("ca.pem"), "key": args.dir.join("ca.key") });
    output.print(&told, || {
        format!(
            "{folder}/ca.pem is for everybody; {folder}/ca.key makes certificates: keep it here"
        )
    })
}

fn issue(args: &IssueArgs, output: Output) -> anyhow::Result<()> {
    let authority = Authority::open(&args.dir)?;
    let role_of = |name: &String| match args.role.as_ref().unwrap_or(name).parse::<Role>() {
        Ok(role) => Ok(role),
        Err(_) => bail!("`{name}` does not say what it is for; add --role"),
    };
    let roles: Vec<Role> = args.names.iter().map(role_of).collect::<Result<_, _>>()?;
    for (name, role) in args.names.iter().zip(&roles) {
        let wanted = Wanted {
            role: *role,
            name: name.clone(),
            hosts: args.host.clone(),
            days: 0..i64::from(args.days),
        };
        match args.replace {
            true => authority.replace_in(&args.dir, &wanted)?,
            false => authority.issue_into(&args.dir, &wanted)?,
        }
    }
    let made = args.names.iter().zip(&roles);
    let told: Vec<_> = made
        .clone()
        .map(|(name, role)| json!({ "name": name, "role": role, "days": args.days }))
        .collect();
    output.print(&told, || {
        let folder = args.dir.display();
        let lines = made.map(|(name, role)| {
            format!(
                "{folder}/{name}.pem and .key: {} for {} days",
                role.with_article(),
                args.days
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

fn revoke(args: &RevokeArgs, output: Output) -> anyhow::Result<()> {
    let authority = Authority::open(&args.dir)?;
    let revoked = authority.revoke(&args.dir, &args.names)?;
    let list = args.dir.join(REVOKED).display().to_string();
    let told = json!({ "revoked": revoked, "list": list });
    output.print(&told, || {
        let certificates = counted(revoked.len() as u64, "certificate");
        format!("{certificates} revoked; put {list} beside every ca.pem")
    })
}

fn token(args: &TokenArgs, output: Output) -> anyhow::Result<()> {
    let role = match args.role.as_str() {
        "operate" => Role::Operator,
        _ => Role::Viewer,
    };
    let token = Token::new()?;
    let entry = token.entry(&args.name, role, args.job.clone())?;
    let path = args.dir.join(format!("{}.token", args.name));
    write_new(&path, &format!("{}\n", token.reveal()), true)?;
    let tokens = args.dir.join(TOKENS);
    append(&tokens, &serde_json::to_string(&entry)?)
        .with_context(|| format!("cannot write {}", tokens.display()))?;
    let (path, tokens) = (path.display(), tokens.display());
    let told = json!({ "token_file": path.to_string(), "tokens": tokens.to_string() });
    output.print(&told, || {
        format!(
            "{path} is for {}; give the coordinator --tokens {tokens}",
            args.name
        )
    })
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)?
        .write_all(format!("{line}\n").as_bytes())
}
