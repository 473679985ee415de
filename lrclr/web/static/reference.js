// The OpenAPI document as a page.
import { call } from "./api.js";
import { element } from "./viewer.js";

const { paths, components } = await (await call("GET", "/openapi.json")).json();
const rest = new Map(Object.entries(components.schemas));

// The type that a schema names. What is shown with an operation is not shown again.
function shown(schema) {
  const name = schema.$ref.split("/").at(-1);
  rest.delete(name);
  return components.schemas[name];
}

function type(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(type).filter((one) => one !== "null").join(" or ");
  if (schema.const) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (schema.type === "array") return `list of ${schema.items ? type(schema.items) : "values"}`;
  return schema.format === "binary" ? "file" : (schema.type ?? "anything");
}

function members(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, member]) =>
    element(
      "tr",
      {},
      element("td", {}, element("code", { textContent: name }), schema.required?.includes(name) ? " (required)" : ""),
      element("td", { textContent: type(member) }),
      element("td", { textContent: member.description ?? member.items?.description ?? "" }),
    ),
  );
  const head = element("tr", {}, ...["Member", "Type", "Meaning"].map((textContent) => element("th", { textContent })));
  return element("table", {}, head, ...rows);
}

for (const [path, operations] of Object.entries(paths)) {
  for (const [method, operation] of Object.entries(operations)) {
    const card = element("section", { className: "card" });
    card.append(element("h3", {}, element("code", { textContent: `${method.toUpperCase()} ${path}` })));
    card.append(element("p", { textContent: operation.summary }));
    for (const [kind, { schema }] of Object.entries(operation.requestBody?.content ?? {})) {
      card.append(element("p", { className: "quiet", textContent: `Body: ${kind}` }));
      if (schema.$ref) card.append(members(shown(schema)));
    }
    for (const [status, answer] of Object.entries(operation.responses)) {
      if (status === "default") continue;
      const [kind, content] = Object.entries(answer.content ?? {})[0] ?? ["nothing", null];
      card.append(element("p", { className: "quiet", textContent: `Answer ${status}: ${kind}` }));
      if (content?.schema?.$ref) card.append(members(shown(content.schema)));
    }
    document.getElementById("operations").append(card);
  }
}

const types = element("section", {}, element("h3", { textContent: "Other types" }));
for (const [name, schema] of rest) {
  const card = element("div", { className: "card" }, element("h4", {}, element("code", { textContent: name })));
  card.append(members(schema));
  types.append(card);
}
document.getElementById("operations").append(types);
