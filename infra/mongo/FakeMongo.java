import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.exception.MongoServerError;
import io.netty.channel.Channel;
import java.util.ArrayList;
import java.util.List;

/** Serves MongoDB's protocol from the H2 file of the first argument until standard input ends; says its port. */
public class FakeMongo extends H2Backend {
    FakeMongo(String file) {
        super(file);
        // PyMongo takes no server older than this.
        version(new MongoVersion() {
            public int getWireVersion() {
                return 13;
            }

            public List<Integer> getVersionArray() {
                return List.of(5, 0, 0, 0);
            }
        });
    }

    /** Nobody has a password here. An ordered update ends at its first error, as in MongoDB; the library goes on with the rest. */
    @Override
    @SuppressWarnings("unchecked")
    public Document handleCommand(Channel channel, String database, String command, Document query) {
        if (command.equals("saslStart")) {
            throw new MongoServerError(18, "AuthenticationFailed", "Authentication failed.");
        }
        if (!command.equals("update") || Boolean.FALSE.equals(query.get("ordered"))) {
            return super.handleCommand(channel, database, command, query);
        }
        int matched = 0;
        int modified = 0;
        List<Document> upserted = new ArrayList<>();
        Document answer = new Document();
        List<Document> updates = (List<Document>) query.get("updates");
        for (int index = 0; index < updates.size() && !answer.containsKey("writeErrors"); index++) {
            query.put("updates", List.of(updates.get(index)));
            answer = super.handleCommand(channel, database, command, query);
            matched += ((Number) answer.get("n")).intValue();
            modified += ((Number) answer.get("nModified")).intValue();
            for (String name : List.of("upserted", "writeErrors")) {
                for (Document each : (List<Document>) answer.getOrDefault(name, List.of())) {
                    each.put("index", index);
                    if (name.equals("upserted")) {
                        upserted.add(each);
                    }
                }
            }
        }
        answer.put("n", matched);
        answer.put("nModified", modified);
        if (!upserted.isEmpty()) {
            answer.put("upserted", upserted);
        }
        return answer;
    }

    public static void main(String[] arguments) throws Exception {
        MongoServer server = new MongoServer(new FakeMongo(arguments[0]));
        System.out.println(server.bind().getPort());
        while (System.in.read() >= 0) {
        }
        server.shutdownNow();
    }
}
