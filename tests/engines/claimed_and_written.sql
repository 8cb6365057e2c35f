-- Bytes of layers and configs that the events claim, against those that were really written.
-- Without a line of the registry's log for it, a request is not counted.
SELECT folder, target.repository AS repository, CAST(time AS DATE) AS day, count(*) AS blobs,
    sum(target.size) AS claimed, sum(written) AS written, sum(target.size - written) AS not_sent
FROM events JOIN requests USING (folder, request_id)
WHERE action = 'pull' AND is_blob AND request.method = 'GET'
GROUP BY ALL
ORDER BY not_sent DESC, folder, repository, day;
