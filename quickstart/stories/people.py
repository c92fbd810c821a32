"""Names of people, short and long."""

_LIST = """
    Aaron Abby Abdul Abigail Ada Adam Adele Adrian Agnes Ahmed Aiko Aisha Akira Alan Albert Alejandro Alex Alexander
    Alexandra Ali Alice Alicia Alina Amanda Amara Amelia Amina Amir Amy Ana Anders Andre Andrea Andrew Angela Anil
    Anita Ann Anna Annika Anthony Antonio Anya Arjun Arthur Asha Astrid Audrey Ava Aylin Barbara Beatrice Ben Benjamin
    Bettina Bianca Bill Bob Boris Brandon Brenda Brian Bridget Bruno Caleb Camila Carl Carla Carlos Carmen Caroline
    Catherine Cecilia Celia Charles Charlotte Chen Chloe Chris Christina Christopher Claire Clara Colin Connor Cora
    Cyrus Daisuke Dan Daniel Daniela Daria David Deborah Delia Deepa Dennis Diana Diego Dina Dmitri Dolores Dominic
    Dora Duc Dylan Edgar Edith Eduardo Edward Eleanor Elena Eli Elias Elif Elijah Elise Elizabeth Ella Ellen Elsa Emil
    Emily Emma Eric Erika Esther Ethan Eva Evelyn Fabian Farah Fatima Felicia Felix Fernanda Fernando Fiona Florence
    Frances Francesca Frank Freya Gabriel Gabriela George Georgia Gerald Gina Giovanni Gloria Gordon Greta Gus Hana
    Hanna Harold Harriet Harry Haruto Hassan Heather Hector Heidi Helen Helena Henry Hugo Ian Ibrahim Ida Igor Imani
    Ines Ingrid Irene Isaac Isabella Ivan Ivy Jack Jackson Jacob Jade Jaime Jake James Jamila Jane Janet Jasmine Jason
    Javier Jean Jenna Jennifer Jeremy Jessica Jill Jim Joan Joanna Joe Joel Johanna John Jonas Jonathan Jordan Jorge
    Jose Joseph Josephine Joshua Juan Julia Julian Juliet Kaito Kamal Karen Karim Karl Kate Katherine Kathleen Katya
    Keiko Keith Kelly Ken Kenji Kevin Khadija Kim Kofi Kurt Kyle Laila Lara Lars Laura Lauren Layla Lea Leah Leo Leon
    Leonardo Leticia Liam Lila Lily Lin Linda Linh Lisa Logan Lorenzo Louis Louise Luca Lucas Lucia Lucy Luis Lukas
    Luna Lydia Mabel Maddie Magnus Malik Marco Margaret Maria Mariana Marie Marina Mario Marta Martin Mary Mateo
    Matilda Matthew Max Maya Mei Melanie Mia Michael Michelle Miguel Mila Milan Milo Ming Miriam Mohamed Molly Monica
    Muhammad Nadia Naomi Natalia Nathan Nathaniel Neil Nia Nicholas Nick Nicole Nikita Nina Noah Nora Noriko Oliver
    Olivia Olga Omar Oscar Otto Pablo Pamela Paolo Patricia Patrick Paul Paula Pedro Penelope Peter Petra Philip Phoebe
    Priya Quentin Quinn Rachel Rafael Raj Ralph Ramona Raquel Raul Ravi Rebecca Renata Rhea Ricardo Richard Rita Robert
    Roberto Robin Rohan Rosa Rosalind Roy Ruben Ruth Ryan Sabine Salma Sam Samantha Samira Samuel Sandra Sanjay Sara
    Sarah Scarlett Sean Sebastian Selena Sergei Shira Silvia Simon Sofia Sonia Sophie Stefan Stella Stephanie Steven
    Susan Sven Sylvia Takeshi Tamara Tara Tariq Tatiana Teresa Theo Theodore Thomas Tim Timothy Tina Tobias Tom Tomas
    Tony Uma Ursula Valentina Valeria Vanessa Vera Victor Victoria Vikram Vincent Viola Virginia Vivian Wanda Wei
    Wendy William Winston Xavier Ximena Yara Yasmin Yolanda Yuki Yusuf Yvonne Zachary Zahra Zara Zoe
"""
NAMES = tuple(_LIST.split())
