//! A route as a value: what it is called, who may use it, what goes in and out, and what it does.
//!
//! The router, the check of rights, the OpenAPI document and the tests are all made of the same
//! values (see decision 0008). A route without a rule cannot be written down: the rule is an
//! argument of every constructor.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::Method;
use insula_model::tenancy::Role;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::context::Cx;
use crate::error::ApiError;
use crate::limits;
use crate::reply::Reply;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Everybody, signed in or not.
    Public,
    /// Whoever has a valid credential.
    SignedIn,
    /// A person who has signed in with a password.
    Person,
    /// The operator of the installation.
    Operator,
    /// Who has at least this role in the org of the path; and the operator.
    Org(Role),
    /// The operator alone, of an org in the path.
    OperatorOfOrg,
}

pub type Handler =
    Arc<dyn Fn(Cx) -> Pin<Box<dyn Future<Output = Result<Reply, ApiError>> + Send>> + Send + Sync>;

pub struct Route {
    pub method: Method,
    pub path: &'static str,
    /// The operation's id: unique, for ever.
    pub name: &'static str,
    pub rule: Rule,
    pub handler: Handler,
    pub summary: &'static str,
    pub query: Vec<Param>,
    pub body: BodyKind,
    pub answers: Vec<Answer>,
    /// Changes nothing, or nothing that a repetition would change again: an `Idempotency-Key`
    /// means nothing to it.
    pub harmless: bool,
    /// Answered from what only the server that decides knows: others ask it.
    pub live: bool,
    /// Whether `If-Match` is honoured.
    pub conditional: bool,
}

/// A parameter of the query.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    pub name: &'static str,
    pub kind: ParamKind,
    pub about: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    Text,
    Number,
    Flag,
    Time,
}

#[derive(Debug, Clone)]
pub enum BodyKind {
    None,
    Json {
        schema: SchemaOf,
        bytes_max: usize,
        /// Whether no body at all is as good as `{}`.
        optional: bool,
    },
    /// Read as it comes, by the handler.
    Stream {
        media_types: &'static [&'static str],
    },
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub content: Content,
}

#[derive(Debug, Clone)]
pub enum Content {
    Empty,
    One(SchemaOf),
    /// A page: `{items, next}`.
    Page(SchemaOf),
    /// A page, or a stream of the same items.
    PageOrStream(SchemaOf),
    Text(&'static str),
    /// JSON of a shape that is described elsewhere.
    Object,
}

/// A type's schema, asked for only when the document is made.
#[derive(Clone, Copy)]
pub struct SchemaOf {
    pub name: fn() -> Cow<'static, str>,
    pub schema: fn() -> RefOr<Schema>,
    pub nested: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl SchemaOf {
    pub fn of<T: ToSchema>() -> Self {
        Self { name: T::name, schema: <T as PartialSchema>::schema, nested: T::schemas }
    }
}

impl fmt::Debug for SchemaOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&(self.name)())
    }
}

impl Route {
    fn new<H, F>(
        method: Method,
        path: &'static str,
        name: &'static str,
        rule: Rule,
        handler: H,
    ) -> Self
    where
        H: Fn(Cx) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply, ApiError>> + Send + 'static,
    {
        Self {
            method,
            path,
            name,
            rule,
            handler: Arc::new(move |cx| Box::pin(handler(cx))),
            summary: "",
            query: Vec::new(),
            body: BodyKind::None,
            answers: Vec::new(),
            harmless: false,
            live: false,
            conditional: false,
        }
    }

    pub fn about(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    pub fn query(mut self, params: &[Param]) -> Self {
        self.query.extend_from_slice(params);
        self
    }

    /// The parameters of every list with pages.
    pub fn paged(self) -> Self {
        self.query(&[
            text("cursor", "`next` of the page before"),
            number("limit", "items on a page: 50 unless told otherwise, 200 at most"),
        ])
    }

    pub fn takes<T: ToSchema>(self) -> Self {
        self.takes_up_to::<T>(limits::JSON_BODY_BYTES_MAX)
    }

    pub fn takes_up_to<T: ToSchema>(mut self, bytes_max: usize) -> Self {
        self.body = BodyKind::Json { schema: SchemaOf::of::<T>(), bytes_max, optional: false };
        self
    }

    pub fn may_take<T: ToSchema>(mut self) -> Self {
        self.body = BodyKind::Json {
            schema: SchemaOf::of::<T>(),
            bytes_max: limits::JSON_BODY_BYTES_MAX,
            optional: true,
        };
        self
    }

    pub fn takes_stream(mut self, media_types: &'static [&'static str]) -> Self {
        self.body = BodyKind::Stream { media_types };
        self
    }

    pub fn answers<T: ToSchema>(self, status: u16) -> Self {
        self.answer(status, Content::One(SchemaOf::of::<T>()))
    }

    pub fn answers_page<T: ToSchema>(self) -> Self {
        self.answer(200, Content::Page(SchemaOf::of::<T>()))
    }

    pub fn answers_page_or_stream<T: ToSchema>(self) -> Self {
        self.answer(200, Content::PageOrStream(SchemaOf::of::<T>()))
    }

    pub fn answers_nothing(self) -> Self {
        self.answer(204, Content::Empty)
    }

    pub fn answers_text(self, media_type: &'static str) -> Self {
        self.answer(200, Content::Text(media_type))
    }

    pub fn answers_object(self) -> Self {
        self.answer(200, Content::Object)
    }

    pub fn harmless(mut self) -> Self {
        self.harmless = true;
        self
    }

    /// Answered by the server that decides.
    pub fn live(mut self) -> Self {
        self.live = true;
        self
    }

    pub fn conditional(mut self) -> Self {
        self.conditional = true;
        self
    }

    fn answer(mut self, status: u16, content: Content) -> Self {
        self.answers.push(Answer { status, content });
        self
    }

    /// The names in braces, in their order.
    pub fn path_params(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Whether it minds an `Idempotency-Key`.
    pub fn repeats(&self) -> bool {
        self.method != Method::GET && !self.harmless
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({:?})", self.method, self.path, self.rule)
    }
}

macro_rules! constructors {
    ($($name:ident = $method:ident;)*) => {$(
        pub fn $name<H, F>(
            path: &'static str,
            name: &'static str,
            rule: Rule,
            handler: H,
        ) -> Route
        where
            H: Fn(Cx) -> F + Send + Sync + 'static,
            F: Future<Output = Result<Reply, ApiError>> + Send + 'static,
        {
            Route::new(Method::$method, path, name, rule, handler)
        }
    )*};
}

constructors! {
    read = GET;
    post = POST;
    put = PUT;
    patch = PATCH;
    delete = DELETE;
}

pub const fn text(name: &'static str, about: &'static str) -> Param {
    Param { name, kind: ParamKind::Text, about }
}

pub const fn number(name: &'static str, about: &'static str) -> Param {
    Param { name, kind: ParamKind::Number, about }
}

pub const fn flag(name: &'static str, about: &'static str) -> Param {
    Param { name, kind: ParamKind::Flag, about }
}

pub const fn time(name: &'static str, about: &'static str) -> Param {
    Param { name, kind: ParamKind::Time, about }
}

pub const VIEWER: Rule = Rule::Org(Role::Viewer);
pub const DEVELOPER: Rule = Rule::Org(Role::Developer);
pub const ADMIN: Rule = Rule::Org(Role::Admin);
pub const OWNER: Rule = Rule::Org(Role::Owner);
