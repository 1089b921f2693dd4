// Calls a control plane by the generated types, and checks what it says.
import type { paths } from "./api";

declare const process: { env: Record<string, string | undefined> };

type Machines = paths["/api/v1/machines"]["get"]["responses"]["200"]["content"]["application/json"];
type Problem = paths["/api/v1/machines/{id}"]["get"]["responses"]["default"]["content"]["application/problem+json"];

async function get<T>(path: string): Promise<T> {
  const res = await fetch(process.env.SERVER + path, { headers: { authorization: "Bearer " + process.env.KEY } });
  return (await res.json()) as T;
}

async function main(): Promise<void> {
  const machines = await get<Machines>("/api/v1/machines");
  if (machines.items.length !== 1 || machines.items[0].id !== "go-01" || machines.items[0].tags.effective[0] !== "go") {
    throw new Error("machines: " + JSON.stringify(machines));
  }
  const problem = await get<Problem>("/api/v1/machines/none");
  const code: "not-found" | string = problem.code;
  if (code !== "not-found") {
    throw new Error("problem: " + JSON.stringify(problem));
  }
}

void main();
