//! Deciding.

use std::{collections::BTreeMap, sync::Arc};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityUid, Request, RestrictedExpression, Schema,
};
use kapok_types::Name;

use crate::{
    Action, Decision, Directory, Object, Policy, Principal,
    load::{Error, Loaded, load},
    words::Words,
};

/// The policies in force. Immutable: a reload makes another one.
#[derive(Debug)]
pub struct Authz {
    loaded: Loaded,
    words: Words,
    /// Each action's entity, which knows the action's groups.
    actions: BTreeMap<Action, Entity>,
    /// Tenants that policies name: they need their place in the tree, whatever the object is.
    named: Vec<EntityUid>,
}

impl Authz {
    /// Reads the built-in policies and a site's, given as (file name, text): all of them or none.
    ///
    /// # Errors
    ///
    /// A file or a policy that is refused, with the reason. Who has an older set keeps that.
    pub fn load<F, T>(site: impl IntoIterator<Item = (F, T)>) -> Result<Self, Error>
    where
        F: Into<String>,
        T: AsRef<str>,
    {
        let loaded = load(site)?;
        let words = Words::new();
        let unsound = |reason: String| Error::Syntax {
            file: "the schema".into(),
            reason,
        };
        let groups = loaded.schema.action_entities();
        let groups = groups.map_err(|error| unsound(error.to_string()))?;
        let mut actions = BTreeMap::new();
        for action in Action::ALL {
            let entity = groups.get(&words.action(*action));
            let entity = entity.ok_or_else(|| unsound(format!("{action} is not in it")))?;
            actions.insert(*action, entity.clone());
        }
        let tenant = words.tenant_type();
        let mut named: Vec<EntityUid> = loaded
            .set
            .policies()
            .flat_map(cedar_policy::Policy::entity_literals)
            .filter(|uid| uid.type_name() == tenant)
            .collect();
        named.sort();
        named.dedup();
        Ok(Self {
            loaded,
            words,
            actions,
            named,
        })
    }

    /// The built-in policies alone.
    ///
    /// # Errors
    ///
    /// None: a test loads them.
    pub fn built_in() -> Result<Self, Error> {
        Self::load::<String, String>([])
    }

    /// The policies in force, by id.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.loaded.by_id.values()
    }

    /// The schema, for checks of policies.
    pub fn schema(&self) -> &Schema {
        &self.loaded.schema
    }

    /// Whether an action is about objects of this kind.
    pub fn is_about(&self, action: Action, object: &Object) -> bool {
        let kinds = self
            .loaded
            .schema
            .resources_for_action(&self.words.action(action));
        let kind = self.words.object(object);
        (action == Action::UserGrant) == matches!(object, Object::Grant { .. })
            && kinds.is_some_and(|mut kinds| kinds.any(|known| known == kind.type_name()))
    }

    /// Whether somebody may do something, and which policies say so.
    pub fn decide(
        &self,
        directory: &Directory,
        principal: &Principal,
        action: Action,
        object: &Object,
    ) -> Decision {
        match self.consider(directory, principal, action, object) {
            Ok(decision) => decision,
            Err(failure) => Decision::failed(failure),
        }
    }

    /// Whether somebody may do something.
    pub fn permits(
        &self,
        directory: &Directory,
        principal: &Principal,
        action: Action,
        object: &Object,
    ) -> bool {
        self.decide(directory, principal, action, object).allowed
    }

    fn consider(
        &self,
        directory: &Directory,
        principal: &Principal,
        action: Action,
        object: &Object,
    ) -> Result<Decision, String> {
        let asking = directory
            .user(principal)
            .ok_or_else(|| format!("the fabric knows no {principal}"))?;
        let mut slice = Slice(BTreeMap::new());
        slice.add(asking.clone());
        if let Some(action) = self.actions.get(&action) {
            slice.add(action.clone());
        }
        let context = self.describe(directory, object, &mut slice)?;
        // Pairings of actions and objects are ours, not the caller's: checked where tests run.
        let schema = cfg!(debug_assertions).then_some(&self.loaded.schema);
        let request = Request::new(
            self.words.principal(principal),
            self.words.action(action),
            self.words.object(object),
            context,
            schema,
        )
        .map_err(|error| format!("{action} is not about {object}: {error}"))?;
        let entities = Entities::from_entities(slice.0.into_values(), None)
            .map_err(|error| format!("what is known of {object} is unsound: {error}"))?;
        let answer = Authorizer::new().is_authorized(&request, &self.loaded.set, &entities);
        if let Some(error) = answer.diagnostics().errors().next() {
            // Cedar passes over a policy that it can't evaluate. One that forbids must not be lost.
            return Err(format!("a policy can't be evaluated: {error}"));
        }
        let mut policies: Vec<Arc<Policy>> = answer
            .diagnostics()
            .reason()
            .filter_map(|id| self.loaded.by_id.get(id).cloned())
            .collect();
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Decision {
            allowed: answer.decision() == cedar_policy::Decision::Allow,
            policies,
            failure: None,
        })
    }

    /// Adds what policies may ask about an object, and says the circumstances.
    fn describe(
        &self,
        directory: &Directory,
        object: &Object,
        slice: &mut Slice,
    ) -> Result<Context, String> {
        for named in &self.named {
            if let Some(tenant) = directory.tenant_of(named) {
                slice.add(tenant.clone());
            }
        }
        let uid = self.words.object(object);
        match object {
            Object::Fabric | Object::Node(_) => {}
            Object::Tenant(name) => slice.tenant(directory, name),
            Object::Instance { name, tenant, .. }
            | Object::System { name, tenant }
            | Object::Group { name, tenant } => {
                let attributes = [("name", text(name))];
                slice.add(self.inside(directory, uid, attributes, tenant)?);
            }
            Object::Image { name, tenant, .. } => {
                let of = RestrictedExpression::new_entity_uid(self.words.tenant(tenant));
                let attributes = [("name", text(name)), ("tenant", of)];
                slice.add(self.inside(directory, uid, attributes, tenant)?);
                slice.tenant(directory, tenant);
            }
            Object::Flavor { visible_to, .. } => {
                let tenants = || visible_to.iter();
                let named = tenants().map(|name| self.words.tenant(name));
                let named = named.map(RestrictedExpression::new_entity_uid);
                let visible_to = RestrictedExpression::new_set(named);
                let attributes = [("visible_to".to_owned(), visible_to)].into();
                let above = tenants().flat_map(|name| directory.path(&self.words, name));
                let entity = Entity::new(uid, attributes, above.collect());
                slice.add(entity.map_err(|error| error.to_string())?);
            }
            Object::Operation { tenant, .. } => {
                slice.add(self.inside(directory, uid, [], tenant)?);
            }
            Object::User(user) => slice.user(directory, user),
            Object::Grant { user, role, tenant } => {
                slice.user(directory, user);
                let role = (
                    "role",
                    RestrictedExpression::new_string(role.as_str().into()),
                );
                let tenant = tenant.as_ref().map(|name| {
                    slice.tenant(directory, name);
                    let uid = self.words.tenant(name);
                    ("tenant", RestrictedExpression::new_entity_uid(uid))
                });
                let pairs = [Some(role), tenant].into_iter().flatten();
                return Context::from_pairs(pairs.map(|(key, value)| (key.to_owned(), value)))
                    .map_err(|error| error.to_string());
            }
        }
        Ok(Context::empty())
    }

    /// The entity of an object inside a tenant.
    fn inside<const N: usize>(
        &self,
        directory: &Directory,
        uid: EntityUid,
        attributes: [(&str, RestrictedExpression); N],
        tenant: &Name,
    ) -> Result<Entity, String> {
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value));
        let path = directory.path(&self.words, tenant);
        Entity::new(
            uid,
            attributes.into_iter().collect(),
            path.into_iter().collect(),
        )
        .map_err(|error| error.to_string())
    }
}

fn text(name: &Name) -> RestrictedExpression {
    RestrictedExpression::new_string(name.as_str().to_owned())
}

/// The entities that one decision needs: a handful, each with all that it is in.
struct Slice(BTreeMap<EntityUid, Entity>);

impl Slice {
    fn add(&mut self, entity: Entity) {
        self.0.insert(entity.uid(), entity);
    }

    fn tenant(&mut self, directory: &Directory, name: &Name) {
        if let Some(tenant) = directory.tenant(name) {
            self.add(tenant.clone());
        }
    }

    fn user(&mut self, directory: &Directory, user: &Principal) {
        if let Some(user) = directory.user(user) {
            self.add(user.clone());
        }
    }
}
