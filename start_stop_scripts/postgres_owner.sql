-- Run once by the image of PostgreSQL when its volume is empty: the owner of MER's tables, who is no superuser.
-- Nobody is one over the network afterwards: without a password that role logs in from inside the container alone.
\getenv owner MIGRATIONS_DB_USERNAME
\getenv password MIGRATIONS_DB_PASSWORD
-- what fails here holds a password, and would go into the server's log
SET log_min_error_statement = 'panic';
CREATE ROLE :"owner" LOGIN CREATEROLE PASSWORD :'password';
ALTER DATABASE :"DBNAME" OWNER TO :"owner";
ALTER ROLE CURRENT_USER PASSWORD NULL;
