-- What the queries beside this file ask, of a folder with a folder per registry: run them in it.
-- A line that is there twice (rsyslog sends some again) counts once.

CREATE VIEW events AS
SELECT DISTINCT ON (folder, id)
    parse_path(filename)[-2] AS folder, id, CAST(timestamp AS TIMESTAMP) AS time, action, target,
    request, request.id AS request_id, split_part(target.url, '/', -2) = 'blobs' AS is_blob
FROM read_json('*/log.log*', format = 'newline_delimited', filename = true, ignore_errors = true,
    columns = {
        id: 'VARCHAR', timestamp: 'VARCHAR', action: 'VARCHAR',
        target: 'STRUCT(mediaType VARCHAR, size BIGINT, digest VARCHAR, repository VARCHAR,
                        url VARCHAR, tag VARCHAR)',
        request: 'STRUCT(id VARCHAR, addr VARCHAR, host VARCHAR, method VARCHAR,
                         useragent VARCHAR)'});

-- What the registry's log says of each request that it answered, in text and JSON alike.
CREATE VIEW requests AS
WITH lines AS (
    SELECT parse_path(filename)[-2] AS folder, line
    FROM read_csv('*/registry.log*', columns = {line: 'VARCHAR'}, header = false, delim = '\x01',
        quote = '', escape = '', auto_detect = false, filename = true, ignore_errors = true)
    WHERE contains(line, 'response completed'))
SELECT folder, request_id, max(written) AS written
FROM (SELECT folder,
          regexp_extract(line, 'http\.request\.id"?[=:]"?([^" ]+)', 1) AS request_id,
          CAST(regexp_extract(line, 'http\.response\.written"?[=:](\d+)', 1) AS BIGINT) AS written
      FROM lines WHERE contains(line, 'http.response.written'))
GROUP BY ALL;

-- for folder in */; do (cd $folder
--     listener.py pulls --json log.log --registry-log registry.log >pulls.jsonl); done
CREATE VIEW pulls AS
SELECT parse_path(filename)[-2] AS folder, CAST(started AS TIMESTAMP) AS started_at,
    * EXCLUDE (filename)
FROM read_json('*/pulls.jsonl', format = 'newline_delimited', filename = true,
    columns = {
        started: 'VARCHAR', ended: 'VARCHAR', image: 'VARCHAR', repository: 'VARCHAR',
        tag: 'VARCHAR', digest: 'VARCHAR', size: 'BIGINT', sent: 'BIGINT', verdict: 'VARCHAR',
        client: 'VARCHAR', "user": 'VARCHAR', agent: 'VARCHAR'});
