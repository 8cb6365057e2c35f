-- Which clients interrupt which pulls, and the bytes that were sent for nothing.
SELECT folder, image, client, count(*) AS pulls,
    count(*) FILTER (verdict = 'interrupted') AS interrupted,
    coalesce(sum(sent) FILTER (verdict = 'interrupted'), 0) AS wasted
FROM pulls
GROUP BY ALL
HAVING interrupted > 0
ORDER BY interrupted DESC, wasted DESC, folder, image, client;
