// MongoDB's health check, and its set-up: makes a replica set of this one node, and a user for each service that may
// read and write that service's database and nothing else. Ends with 0 once the node takes writes. Harmless to repeat.
const fs = require("fs");
const secret = (name) => fs.readFileSync(`/run/secrets/${name}`, "utf8").trim();
const server = new Mongo(
  `mongodb://root:${secret("root_password")}@127.0.0.1:27017/admin?directConnection=true&serverSelectionTimeoutMS=3000`,
);
const admin = server.getDB("admin");

try {
  admin.runCommand({ replSetGetStatus: 1 });
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  admin.runCommand({ replSetInitiate: { _id: "rs0", members: [{ _id: 0, host: "mongo:27017" }] } });
}
if (!admin.runCommand({ hello: 1 }).isWritablePrimary) quit(1);

const users = new Set(admin.runCommand({ usersInfo: 1 }).users.map((user) => user.user));
for (const service of ["auth", "ingest", "inference", "nutrition", "insights", "webhooks"]) {
  if (users.has(service)) continue;
  const roles = [{ role: "readWrite", db: `mymacro_${service}` }];
  admin.runCommand({ createUser: service, pwd: secret(`${service}_password`), roles });
}
quit(0);
