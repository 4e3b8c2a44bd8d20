-- Where instances and builds of an app have been whose rows do not say so any more: the logs are
-- still there. See whereabouts.rs.
CREATE TABLE whereabouts (
    app TEXT COLLATE "C" NOT NULL,
    node TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (app, node)
);
CREATE INDEX whereabouts_by_node ON whereabouts (node);
-- Where there is one node, everything was on it.
INSERT INTO whereabouts (app, node)
SELECT apps.id, nodes.id FROM apps CROSS JOIN nodes WHERE (SELECT COUNT(*) FROM nodes) = 1;
