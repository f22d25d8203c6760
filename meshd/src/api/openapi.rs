use epsilon_proto::api::{Problem, SCHEMA};
use serde_json::json;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterIn, PathItem, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApiBuilder, Ref, RefOr,
    Response, ResponseBuilder,
};
use utoipa::{IntoParams, ToSchema};

use super::routes;

/// The component that says what a schema tag is.
const TAGGED: &str = "Tagged";

/// The OpenAPI 3.1 document of the API, as it is checked in: pretty-printed,
/// with a line feed at the end.
pub fn openapi_json() -> String {
    let mut components = ComponentsBuilder::new();
    let mut paths = PathsBuilder::new();
    for route in routes::table() {
        let Operation { operation, schemas } = route.operation;
        let method = match route.method {
            "POST" => HttpMethod::Post,
            _ => HttpMethod::Get,
        };
        let operation = operation
            .operation_id(Some(operation_id(route.path)))
            .response("default", problem_response());
        paths = paths.path(route.path, PathItem::new(method, operation));
        components = components.schemas_from_iter(schemas);
    }
    components = components.schema(TAGGED, tagged()).schemas_from_iter(schemas_of::<Problem>());
    let document = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("epsilon")
                .version("1")
                .description(Some(
                    "The local API of meshd: HTTP and JSON on a Unix socket, \
                     /run/epsilon/epsilon.sock unless told. Every document carries \
                     the schema tag epsilon/v1; unknown fields of a request are \
                     refused, and a reply may gain fields.",
                ))
                .license(Some(
                    LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
                ))
                .build(),
        )
        .paths(paths)
        .components(Some(components.build()))
        .build();
    // Through a value, so that the order of the keys is the alphabet's.
    let mut text = format!("{:#}", json!(document));
    text.push('\n');
    text
}

/// How one path is described.
pub(super) struct Operation {
    operation: OperationBuilder,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Operation {
    /// Takes the query `Q` and answers with a document of `R`.
    pub(super) fn new<Q: IntoParams, R: ToSchema>(summary: &str) -> Self {
        let mut operation = Self::undescribed::<Q>(summary);
        operation.operation =
            operation.operation.response("200", response("application/json", document::<R>()));
        operation.schemas = schemas_of::<R>();
        operation
    }

    /// Takes the query `Q` and answers with one document of `R` per line.
    pub(super) fn lines<Q: IntoParams, R: ToSchema>(summary: &str) -> Self {
        let mut operation = Self::undescribed::<Q>(summary);
        operation.operation =
            operation.operation.response("200", response("application/x-ndjson", document::<R>()));
        operation.schemas = schemas_of::<R>();
        operation
    }

    /// Takes the query `Q` and answers with a JSON object of another make.
    pub(super) fn undescribed<Q: IntoParams>(summary: &str) -> Self {
        let parameters = Q::into_params(|| Some(ParameterIn::Query));
        let object = ObjectBuilder::new().build().into();
        Self {
            operation: OperationBuilder::new()
                .summary(Some(summary))
                .parameters((!parameters.is_empty()).then_some(parameters))
                .response("200", response("application/json", object)),
            schemas: Vec::new(),
        }
    }

    /// Takes the body `B`.
    pub(super) fn takes<B: ToSchema>(mut self) -> Self {
        let content = ContentBuilder::new().schema(Some(reference(B::name()))).build();
        self.operation = self.operation.request_body(Some(
            RequestBodyBuilder::new().content("application/json", content).build(),
        ));
        self.schemas.extend(schemas_of::<B>());
        self
    }
}

fn operation_id(path: &str) -> String {
    path.trim_start_matches("/v1/").trim_end_matches(".json").replace('/', "_")
}

fn reference(name: impl AsRef<str>) -> RefOr<Schema> {
    Ref::from_schema_name(name.as_ref()).into()
}

fn schemas_of<T: ToSchema>() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    schemas
}

/// `T` with the schema tag beside its fields. (A schema derived from
/// `proto::api::Document` would have one name for every body.)
fn document<T: ToSchema>() -> RefOr<Schema> {
    Schema::from(AllOfBuilder::new().item(reference(TAGGED)).item(reference(T::name())).build())
        .into()
}

fn tagged() -> Schema {
    let tag = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some([SCHEMA]))
        .description(Some("The schema that the document follows"));
    ObjectBuilder::new()
        .property("schema", tag)
        .required("schema")
        .description(Some("What every reply, problem and event carries"))
        .into()
}

fn response(media_type: &str, schema: RefOr<Schema>) -> Response {
    ResponseBuilder::new()
        .description("Done")
        .content(media_type, ContentBuilder::new().schema(Some(schema)).build())
        .build()
}

fn problem_response() -> Response {
    ResponseBuilder::new()
        .description("What failed, on what, and the next step")
        .content(
            "application/json",
            ContentBuilder::new().schema(Some(document::<Problem>())).build(),
        )
        .build()
}
