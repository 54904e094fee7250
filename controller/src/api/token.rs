//! Tokens: the right to fetch a certificate. Their text is in one answer and nowhere else.

use std::ops::Bound;

use kapok_proto::fabric::v1::{
    CreateTokenRequest, CreateTokenResponse, DeleteTokenRequest, DeleteTokenResponse,
    ListTokensRequest, ListTokensResponse, token_service_server::TokenService,
};
use kapok_trust::TokenId;
use tonic::{Request, Response, Status};

use super::{
    Api,
    caller::{Caller, absent, optional_key, parsed, request_id},
    page::Page,
    status, view,
};
use crate::{
    authz::{Action, Object},
    fabric::{Command, EnrollToken, Outcome, TokenSubject, TokenUse},
};

#[tonic::async_trait]
impl TokenService for Api {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let caller = self.caller(&request)?;
        let CreateTokenRequest {
            subject,
            life_seconds,
            request_id: id,
        } = request.into_inner();
        let id = request_id(&id)?;
        let subject: TokenSubject = parsed("subject", &subject)?;
        let action = match subject {
            TokenSubject::Node(_) => Action::NodeTokenCreate,
            TokenSubject::User(_) | TokenSubject::Machine(_) | TokenSubject::Controller(_) => {
                Action::TokenCreate
            }
        };
        self.authorize(&caller, action, &Object::Fabric, "")?;
        if let Some(name) = subject.named().filter(|named| self.is_own(named)) {
            return Err(status::bad_field(
                "subject",
                format!("is {name}, which leads; give the new controller another name"),
            ));
        }
        let token = self.trust.new_token(&self.ledger.snapshot().fabric);
        let token = token.map_err(|error| status::trust(&error))?;
        let command = Command::CreateToken {
            subject,
            life_ms: life_seconds.saturating_mul(1000),
            new: TokenUse {
                id: token.id(),
                hash: token.secret_hash(),
            },
        };
        let done = self.submit(caller, id, command).await?;
        let Outcome::Token(made) = done.outcome else {
            // Another kind of command had this request id: its content would differ.
            return Err(Status::internal("the change has no token"));
        };
        let record = done.snapshot.fabric.tokens.get(&made);
        let record = record.ok_or_else(|| absent("token", &made.to_string()))?;
        // The secret is given once: a repeated request made none.
        let text = if made == token.id() {
            token.reveal().to_string()
        } else {
            String::new()
        };
        Ok(Response::new(CreateTokenResponse {
            token: Some(view::token(record)),
            text,
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let caller = self.caller(&request)?;
        let (nodes, people) = (
            self.may(&caller, Action::NodeTokenList, &Object::Fabric),
            self.may(&caller, Action::TokenList, &Object::Fabric),
        );
        if !nodes {
            self.authorize(&caller, Action::TokenList, &Object::Fabric, "")?;
        }
        let ListTokensRequest {
            subject_prefix,
            page_size,
            page_token,
        } = request.into_inner();
        let prefix = optional_key("subject_prefix", subject_prefix)?;
        let page = Page::new(format!("tokens {prefix}"), page_size, &page_token)?;
        let from = match &page.after {
            Some(last) => Bound::Excluded(parsed::<TokenId>("page_token", last)?),
            None => Bound::Unbounded,
        };
        let seen = |token: &&EnrollToken| {
            let may = match token.subject {
                TokenSubject::Node(_) => nodes,
                TokenSubject::User(_) | TokenSubject::Machine(_) | TokenSubject::Controller(_) => {
                    people
                }
            };
            may && !token.is_used_up() && token.subject.to_string().starts_with(&prefix)
        };
        let snapshot = self.ledger.snapshot();
        let rest = snapshot.fabric.tokens.range((from, Bound::Unbounded));
        let rest = rest.map(|(_, token)| token).filter(seen);
        let (tokens, next_page_token) =
            page.take(rest.map(|token| (token.id.to_string(), view::token(token))));
        Ok(Response::new(ListTokensResponse {
            tokens,
            next_page_token,
        }))
    }

    async fn delete_token(
        &self,
        request: Request<DeleteTokenRequest>,
    ) -> Result<Response<DeleteTokenResponse>, Status> {
        let caller = self.caller(&request)?;
        let DeleteTokenRequest {
            token,
            request_id: id,
        } = request.into_inner();
        let id = request_id(&id)?;
        let token: TokenId = parsed("token", &token)?;
        self.authorize(&caller, self.deletes(&caller, token), &Object::Fabric, "")?;
        self.submit(caller, id, Command::DeleteToken { token })
            .await?;
        Ok(Response::new(DeleteTokenResponse {}))
    }
}

impl Api {
    /// What deleting a token is. Of one that isn't there, whichever the caller may do.
    fn deletes(&self, caller: &Caller, token: TokenId) -> Action {
        let snapshot = self.ledger.snapshot();
        let of_a_node = match snapshot.fabric.tokens.get(&token) {
            Some(token) => matches!(token.subject, TokenSubject::Node(_)),
            None => self.may(caller, Action::NodeTokenDelete, &Object::Fabric),
        };
        if of_a_node {
            Action::NodeTokenDelete
        } else {
            Action::TokenDelete
        }
    }
}
