//! `kapok login`

use std::{fs, io, io::Read as _, path::Path, sync::Arc};

use kapok_proto::fabric::v1::login_request::Proof;
use kapok_trust::{Pin, Token};
use kapok_types::{Env as _, env::System};

use crate::{
    args::{Secret, login::Login},
    browser,
    client::Client,
    contexts::{self, Contexts, Source},
    credential::Credential,
    enroll::{Enroll, Wish, pins},
    error::Error,
    output::Out,
    settings::{Addresses, Settings},
    view::context::Context,
};

/// A longer file is no token.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Does it.
pub(super) async fn run(settings: &Settings, out: &mut Out, login: Login) -> Result<(), Error> {
    let env = System::new();
    if login.renew {
        let client = Client::connect_only(settings).await?;
        client.source().prepare(&client.credential().fabric)?;
        let new = client.renew(login.life).await?;
        return say(settings, out, &env, &new, client.source());
    }
    let token = match (&login.token, &login.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(file)) => Some(read(file)?),
        (None, None) => None,
    };
    let credential = if let Some(token) = token {
        by_token(settings, &env, &login, &token).await?
    } else if login.oidc {
        by_provider(settings, out, &env, &login).await?
    } else {
        return take_over(settings, out, &env);
    };
    let source = store(settings, &credential)?;
    say(settings, out, &env, &credential, &source)
}

fn read(file: &Path) -> Result<Secret, Error> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(MAX_TOKEN_BYTES).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(MAX_TOKEN_BYTES).read_to_string(&mut text))
    };
    let text = Secret::from(text);
    match read {
        Ok(_) => Ok(Secret::from(text.reveal().trim().to_owned())),
        Err(error) => Err(Error::io(
            format!("can't read the token in {}", file.display()),
            &error,
        )),
    }
}

async fn by_token(
    settings: &Settings,
    env: &Arc<System>,
    login: &Login,
    text: &Secret,
) -> Result<Credential, Error> {
    let token: Token = text.reveal().parse().map_err(|_| Error::Usage {
        message: "that is no whole token; one looks like kapok1.FABRIC.…".to_owned(),
        hint: "copy all of it, or ask for a new one".to_owned(),
    })?;
    // What the context knows holds for its own fabric alone.
    let known = known(settings).filter(|known| known.fabric == *token.fabric());
    let addresses = addresses(login, known.as_ref())?;
    contexts::place(settings, token.fabric())?.prepare(token.fabric())?;
    let enroll = Enroll::connect(env, &addresses, &[token.pin()]).await?;
    let proof = Proof::Token(token.reveal().to_string());
    enroll
        .login(&Wish::new()?, proof, login.life, settings.servers.clone())
        .await
}

async fn by_provider(
    settings: &Settings,
    out: &Out,
    env: &Arc<System>,
    login: &Login,
) -> Result<Credential, Error> {
    let known = known(settings);
    let pins = match (&login.fabric, login.ca_fingerprint, &known) {
        (Some(fabric), Some(authority), _) => vec![Pin {
            fabric: fabric.clone(),
            authority,
        }],
        (_, _, Some(known)) => pins(known),
        _ => {
            return Err(Error::Usage {
                message: "nothing here says which authority the controller must have".to_owned(),
                hint:
                    "the first time: --fabric NAME --ca-fingerprint HEX, as kapok ca ls shows it \
                       to an administrator"
                        .to_owned(),
            });
        }
    };
    let addresses = addresses(login, known.as_ref())?;
    // All of one fabric.
    if let Some(pin) = pins.first() {
        contexts::place(settings, &pin.fabric)?.prepare(&pin.fabric)?;
    }
    let enroll = Enroll::connect(env, &addresses, &pins).await?;
    let fabric = enroll.fabric().await?;
    if fabric.oidc_issuer.is_empty() {
        return Err(Error::Usage {
            message: format!("the fabric {} has no identity provider", fabric.fabric),
            hint: "log in with a token: kapok login --token-file FILE".to_owned(),
        });
    }
    // The key first: what the provider signs is for it alone.
    let wish = Wish::new()?;
    let open = !login.no_browser;
    let token = browser::log_in(out, &fabric, &wish.nonce, open, settings.timeout).await?;
    enroll
        .login(
            &wish,
            Proof::OidcIdToken(token),
            login.life,
            settings.servers.clone(),
        )
        .await
}

/// What an earlier login left, ended or not.
fn known(settings: &Settings) -> Option<Credential> {
    contexts::credential(settings).ok().map(|(known, _)| known)
}

fn addresses(login: &Login, known: Option<&Credential>) -> Result<Addresses, Error> {
    let given = login.controller.clone();
    given
        .or_else(|| known?.enroll.clone())
        .ok_or_else(|| Error::Usage {
            message: "nothing here says where the controller lets people in".to_owned(),
            hint: "say it with --controller HOST:7780".to_owned(),
        })
}

/// Puts a credential where the settings say: into the file, or into a context.
fn store(settings: &Settings, credential: &Credential) -> Result<Source, Error> {
    if let Some(path) = &settings.credential {
        let file = Source::File(path.clone());
        file.store(credential)?;
        return Ok(file);
    }
    Contexts::new(settings)?.store(credential)
}

/// Takes the credential in a file over into a context.
fn take_over(settings: &Settings, out: &mut Out, env: &Arc<System>) -> Result<(), Error> {
    let Some(file) = &settings.credential else {
        return Err(Error::Usage {
            message: "nothing here proves who you are".to_owned(),
            hint: "give --token-file FILE, --oidc, --renew or --credential FILE".to_owned(),
        });
    };
    let mut credential = Credential::read(file)?;
    if let Some(servers) = &settings.servers {
        credential.controllers = Some(servers.clone());
    }
    let source = Contexts::new(settings)?.store(&credential)?;
    out.remark(&format!(
        "{} isn't needed any more, and is a secret: remove it",
        file.display()
    ));
    say(settings, out, env, &credential, &source)
}

fn say(
    settings: &Settings,
    out: &mut Out,
    env: &Arc<System>,
    credential: &Credential,
    source: &Source,
) -> Result<(), Error> {
    let current = Contexts::new(settings).ok().and_then(|all| all.current());
    let context = Context::new(credential, source, current.as_ref());
    if out.format().is_for_people() {
        out.line(&context.line(env.now()))
    } else {
        out.data(&context)
    }
}
