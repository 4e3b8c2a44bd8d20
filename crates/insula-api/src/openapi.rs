//! The OpenAPI 3.1 document, made of the routes.

use std::collections::BTreeMap;

use insula_wire::problem::{Code, PROBLEM_MEDIA_TYPE, Problem};
use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};

use crate::route::{Answer, BodyKind, Content, Param, ParamKind, Route, Rule, SchemaOf};

/// The same text for the same code, whatever the order of anything.
pub fn document(routes: &[Route]) -> Value {
    let mut schemas = Schemas::default();
    schemas.add(SchemaOf::of::<Problem>());
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes {
        let operation = operation(route, &mut schemas);
        let method = route.method.as_str().to_ascii_lowercase();
        paths.entry(route.path).or_default().insert(method, operation);
    }
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Insula",
            "version": "1",
            "description": "Everything that the command line and the console do, and nothing \
                else. `/v1` only ever grows: tolerate fields, states and codes that you do not \
                know. Errors are problem documents (RFC 9457); each `code` has a page at \
                `/errors/{code}`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas.all,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "responses": { "Problem": {
                "description": format!("A refusal. Codes: {}.", codes.join(", ")),
                "content": { PROBLEM_MEDIA_TYPE: { "schema": reference("Problem") } },
            } },
        },
    })
}

#[derive(Default)]
struct Schemas {
    all: BTreeMap<String, RefOr<Schema>>,
}

impl Schemas {
    /// Takes a schema and all that it mentions; the answer is a reference to it.
    fn add(&mut self, schema: SchemaOf) -> Value {
        let name = (schema.name)().into_owned();
        if !self.all.contains_key(&name) {
            let mut nested = Vec::new();
            (schema.nested)(&mut nested);
            self.all.extend(nested);
            self.all.insert(name.clone(), (schema.schema)());
        }
        reference(&name)
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let in_path = route.path_params().map(|name| {
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
    });
    let in_query = route.query.iter().map(parameter);
    let mut parameters: Vec<Value> = in_path.chain(in_query).collect();
    if route.repeats() {
        parameters.push(header(
            "Idempotency-Key",
            "Makes a repetition harmless for 24 hours: it answers as the first one did.",
        ));
    }
    if route.conditional {
        parameters.push(header("If-Match", "Only if the document still has this tag."));
    }
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.summary,
        "description": rule_in_words(route.rule),
        "tags": [tag(route.path)],
        "parameters": parameters,
        "responses": responses(route, schemas),
        "security": if route.rule == Rule::Public { json!([]) } else { json!([{ "bearer": [] }]) },
    });
    if let Some(body) = request_body(&route.body, schemas) {
        operation["requestBody"] = body;
    }
    operation
}

fn header(name: &str, about: &str) -> Value {
    json!({
        "name": name, "in": "header", "required": false, "description": about,
        "schema": { "type": "string" },
    })
}

fn parameter(param: &Param) -> Value {
    let schema = match param.kind {
        ParamKind::Text => json!({ "type": "string" }),
        ParamKind::Number => json!({ "type": "integer", "minimum": 0 }),
        ParamKind::Flag => json!({ "type": "boolean" }),
        ParamKind::Time => json!({ "type": "string", "format": "date-time" }),
    };
    json!({
        "name": param.name, "in": "query", "required": false, "description": param.about,
        "schema": schema,
    })
}

fn request_body(body: &BodyKind, schemas: &mut Schemas) -> Option<Value> {
    match body {
        BodyKind::None => None,
        BodyKind::Json { schema, optional, .. } => Some(json!({
            "required": !optional,
            "content": { "application/json": { "schema": schemas.add(*schema) } },
        })),
        BodyKind::Stream { media_types } => {
            let content: Map<String, Value> =
                media_types.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
            Some(json!({ "required": true, "content": content }))
        }
    }
}

fn responses(route: &Route, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    for answer in &route.answers {
        responses.insert(answer.status.to_string(), response(answer, schemas));
    }
    responses.insert("default".into(), json!({ "$ref": "#/components/responses/Problem" }));
    Value::Object(responses)
}

fn response(answer: &Answer, schemas: &mut Schemas) -> Value {
    let content = match &answer.content {
        Content::Empty => return json!({ "description": "Done." }),
        Content::One(schema) => json!({ "application/json": { "schema": schemas.add(*schema) } }),
        Content::Page(schema) => {
            json!({ "application/json": { "schema": page(schemas.add(*schema)) } })
        }
        Content::PageOrStream(schema) => json!({
            "application/json": { "schema": page(schemas.add(*schema)) },
            "text/event-stream": { "schema": { "type": "string" } },
        }),
        Content::Text(media_type) => json!({ *media_type: { "schema": { "type": "string" } } }),
        Content::Object => json!({ "application/json": { "schema": { "type": "object" } } }),
    };
    let description = if answer.status == 201 { "Made." } else { "As asked." };
    json!({ "description": description, "content": content })
}

fn page(item: Value) -> Value {
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "items": { "type": "array", "items": item },
            "next": { "type": "string", "description": "Goes into `cursor`; absent at the end." },
        },
    })
}

fn rule_in_words(rule: Rule) -> String {
    match rule {
        Rule::Public => "For everybody.".into(),
        Rule::SignedIn => "For everybody who has signed in.".into(),
        Rule::Person => "For a person who has signed in.".into(),
        Rule::Operator | Rule::OperatorOfOrg => "For the operator.".into(),
        Rule::Org(role) => format!("Takes the role {role} in the org."),
    }
}

/// What an operation is about: the last fixed part of its path that names a kind of thing.
fn tag(path: &str) -> &str {
    const KINDS: &[&str] = &[
        "apps",
        "builds",
        "deployments",
        "domains",
        "environments",
        "events",
        "instances",
        "invitations",
        "logs",
        "members",
        "nodes",
        "projects",
        "releases",
        "routes",
        "runs",
        "runtimes",
        "secrets",
        "sources",
        "tokens",
        "variables",
    ];
    let mut parts = path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{'));
    let first = parts.clone().find(|part| !["v1", "orgs"].contains(part));
    let kind = parts.rfind(|part| KINDS.contains(part));
    kind.or(first).unwrap_or("orgs")
}
